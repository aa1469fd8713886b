"""Devices: which one to use, whose machine code it runs, how dtypes are named, and what CUDA's errors say.

torch is imported only by the functions that need it: a machine without a GPU need not wait for it to say so.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import BackendUnavailable
from engines.manifest import Precision

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda")
# What the NVIDIA driver makes: without them there is no GPU, and no need to ask torch.
_DRIVER_NODES = ("/dev/nvidiactl", "/dev/dxg")


@dataclass(frozen=True)
class Placement:
    """Where engines of one set run; `threads` is for the CPU, None leaves it to the library.

    `cache`: the folder below which a backend may keep what it learns at run time (runtime_cache.py), None: nowhere.
    """

    device: torch.device
    threads: int | None
    cache: Path | None = None


def dtype_of(precision: Precision) -> torch.dtype:
    """The dtype of a set's floating tensors."""
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "fp8": torch.float16}[precision]


def has_gpu() -> bool:
    """Whether torch can use an NVIDIA GPU here."""
    if not any(Path(node).exists() for node in _DRIVER_NODES):
        return False
    import torch

    return torch.cuda.is_available()


def build_device() -> torch.device:
    """Where things are compiled: the GPU if there is one."""
    import torch

    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def architecture_of(device: torch.device) -> str:
    """The machine code that a device runs, as manifests name it: 'sm90' (compute capability 9.0), 'cpu-avx512'."""
    import torch

    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm{major}{minor}"
    return f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}"


def choose_device(wanted: str, *, backend: str, architecture: str | None) -> torch.device:
    """The device for a set of `backend`; `architecture` is its machine code's, None if it runs on any device.

    Raises:
        BackendUnavailable: an unknown name, no GPU, or machine code for the other kind of device.
    """
    import torch

    if wanted not in DEVICES:
        raise BackendUnavailable(f"unknown device {wanted!r}; use auto, cpu or cuda")
    if architecture is not None:  # machine code: the set decides
        needed = "cpu" if architecture.startswith("cpu") else "cuda"
        if wanted not in ("auto", needed):
            where = "an NVIDIA GPU" if needed == "cuda" else "a CPU"
            raise BackendUnavailable(
                f"the set was built for {architecture} and needs {where}; device {wanted} was asked for"
            )
        wanted = needed
    gpu = torch.cuda.is_available()
    if wanted == "cuda" and not gpu:
        raise BackendUnavailable(f"{backend} sets on cuda need an NVIDIA GPU, and torch sees none here")
    return torch.device("cuda" if gpu and wanted != "cpu" else "cpu")


def cuda_value(result: tuple[Any, ...], describe: Callable[[Any], str]) -> Any:
    """The value that a cuda-python call returned after its error code, or None.

    Raises:
        RuntimeError: 'CUDA error: ' and `describe(error)`. A worker recognises memory that ran out, or a lost device,
            by this text.
    """
    error, *values = result
    if int(error) != 0:
        raise RuntimeError(f"CUDA error: {describe(error)}")
    return values[0] if values else None


def machine_of(device: torch.device) -> str:
    """A GPU and the libraries that choose its kernels at run time, in words."""
    import torch

    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]
    libraries = f"torch {torch.__version__}, CUDA {torch.version.cuda}, cuDNN {cudnn}"
    return f"{torch.cuda.get_device_name(device)} ({architecture_of(device)}), {libraries}"


def cpu_name() -> str:
    """The CPU's model, as the kernel names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
