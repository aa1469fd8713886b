"""The triton backend: SD1.5's networks for NVIDIA GPUs, with few passes over memory and Triton kernels of our own."""
