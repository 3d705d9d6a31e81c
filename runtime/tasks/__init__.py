"""Text to feeds and outputs to answers, one file a head; imports ``runtime`` below it alone."""
