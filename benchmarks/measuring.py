"""What benchmarks share: progress on stderr, quantiles, likeness of pictures, and what it all ran on."""

from __future__ import annotations

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np


def say(text: str) -> None:
    """One line of progress."""
    print(text, file=sys.stderr, flush=True)


def quantiles(taken: Sequence[float], *, digits: int = 6) -> dict[str, float]:
    """p50 and p95 of a few measurements."""
    return {
        "p50": round(statistics.median(taken), digits),
        "p95": round(float(np.percentile(taken, 95)), digits),
    }


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """dB; 99 for equal pictures."""
    error = np.mean((one.astype(np.float64) - other.astype(np.float64)) ** 2)
    return 99.0 if error == 0 else float(10 * np.log10(255**2 / error))


def versions(*packages: str) -> dict[str, str]:
    """Python's and the packages'."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def cpu() -> dict[str, object]:
    """The processor's name where Linux tells it, and its cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"cpu": names[0] if names else platform.processor(), "cores": os.cpu_count()}
