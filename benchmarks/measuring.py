"""Shared by the benchmarks: quantiles, the likeness of pictures, and what a benchmark ran on."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np

EQUAL_PICTURES_DB = 99.0


def quantiles(taken: Sequence[float], *, digits: int = 6) -> dict[str, float]:
    """The median and the 95th percentile of a few measurements."""
    return {
        "p50": round(statistics.median(taken), digits),
        "p95": round(float(np.percentile(taken, 95)), digits),
    }


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB; infinite for equal ones."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


def smallest_psnr(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """The smallest PSNR of several pairs in dB, for a JSON line: 99 stands for equal pictures, JSON has no infinity."""
    return round(min(EQUAL_PICTURES_DB, *(psnr(one, other) for one, other in pairs)), 1)


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python and of the packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def cpu_name() -> str:
    """The processor's model where Linux says it, else what the platform calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cpu() -> dict[str, object]:
    """The processor's name and its cores."""
    return {"cpu": cpu_name(), "cores": os.cpu_count()}
