"""From ``onnx/model.onnx`` to its INT8 and FP16 variants."""
