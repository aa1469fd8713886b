"""`engines export`: ONNX files with the names of ControlNet's TensorRT ports, checked against torch."""
