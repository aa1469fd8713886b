"""`--backend auto`: tensorrt where it has kernels for the GPU, triton on any other GPU, onnxruntime without one."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from engines.errors import BackendUnavailable
from engines.manifest import BackendName

# What the NVIDIA driver makes: looked for first, so that a machine without a GPU is not kept waiting for torch.
_DRIVER_NODES = ("/dev/nvidiactl", "/dev/dxg")


def choose_backend(wanted: str) -> BackendName:
    """`wanted`, or the best for this machine if it is 'auto'.

    Raises:
        BackendUnavailable: an unknown name.
    """
    if wanted in get_args(BackendName):
        return wanted  # type: ignore[return-value]
    if wanted != "auto":
        raise BackendUnavailable(f"unknown backend {wanted!r}; use auto, {', '.join(get_args(BackendName))}")
    if not has_gpu():
        return "onnxruntime"
    from engines.backends.tensorrt import plan

    return "tensorrt" if plan.is_best() else "triton"


def has_gpu() -> bool:
    """Whether torch can use an NVIDIA GPU here."""
    if not any(Path(node).exists() for node in _DRIVER_NODES):
        return False
    import torch

    return torch.cuda.is_available()
