"""What Triton's Python backend runs: texts to answers, alone or as steps of an ensemble."""
