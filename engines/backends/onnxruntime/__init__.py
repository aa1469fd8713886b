"""The onnxruntime backend: ONNX graphs on a CPU."""
