"""The maker: from ``onnx/model.onnx`` to its INT8, FP8 and half precision variants."""
