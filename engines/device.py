"""Which machine code a device runs, as a short name: 'sm90' for a GPU's compute capability, 'cpu-avx512' for a CPU."""

from __future__ import annotations

import torch


def architecture_of(device: torch.device) -> str:
    """The name that manifests carry."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"sm{major}{minor}"
    return f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}"


def build_device() -> torch.device:
    """Where things are compiled: the GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
