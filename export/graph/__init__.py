"""The ONNX graph: its file, its passes, its names, every use of every weight.

Imports ``runtime`` alone.
"""
