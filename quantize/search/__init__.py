"""Which uses stay in higher precision; imports ``quantize.schemes`` and ``validation``."""
