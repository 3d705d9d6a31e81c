"""How far a file is from the source: outputs, weights, coverage, and which use is at fault.

Imports ``export.graph`` and ``runtime``.
"""
