"""Predictions to scores with intervals; imports ``validation.data`` and ``runtime``."""
