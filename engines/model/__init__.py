"""Weights: where they are, and the torch modules, constants and ONNX graphs that are made of them."""
