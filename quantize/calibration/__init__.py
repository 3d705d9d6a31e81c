"""Texts to ranges; imports ``validation.data``, ``export.graph`` and ``runtime``."""
