"""An ONNX file becomes a TensorRT plan, with proofs; imports ``export.graph`` and ``runtime``."""
