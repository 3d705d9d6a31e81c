"""From a checkpoint to ``onnx/model.onnx`` in a deployment directory."""
