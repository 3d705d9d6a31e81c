"""One file a scheme or pass.

Imports ``quantize.calibration``, ``validation``, ``export.graph`` and ``runtime``.
"""
