"""Data sets: found, read, tokenized to rows; imports ``runtime`` and ``export.samples``."""
