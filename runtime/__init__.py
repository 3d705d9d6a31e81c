"""Run a deployment directory: numpy, tokenizers and one engine, never torch."""
