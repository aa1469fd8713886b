"""The tensorrt backend: plans for NVIDIA GPUs, by `tensorrt` or `tensorrt_rtx`."""
