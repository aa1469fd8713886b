"""Shared by the benchmarks: quantiles, the likeness of pictures, what a benchmark ran on, a type of options."""

from __future__ import annotations

import argparse
import math
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version

import numpy as np

from engines.device import cpu_name

EQUAL_PICTURES_DB = 99.0


def quantiles(taken: Sequence[float], *, digits: int = 6) -> dict[str, float]:
    """The median and the 95th percentile of a few measurements."""
    return {
        "p50": round(statistics.median(taken), digits),
        "p95": round(float(np.percentile(taken, 95)), digits),
    }


def smallest_psnr(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """The smallest PSNR of several pairs in dB, for a JSON line: 99 stands for equal pictures, JSON has no infinity."""
    from engines.check.score import psnr  # here: it imports torch, which benchmarks without pictures do without

    return round(min(EQUAL_PICTURES_DB, *(psnr(one, other) for one, other in pairs)), 1)


def versions(*packages: str) -> dict[str, str]:
    """The versions of Python and of the packages."""
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def cpu() -> dict[str, object]:
    """The processor's name and its cores."""
    return {"cpu": cpu_name(), "cores": os.cpu_count()}


def positive(kind: type[int] | type[float]) -> Callable[[str], float]:
    """A type for argparse: a finite number above zero."""

    def convert(text: str) -> float:
        value = kind(text)
        if not (value > 0 and math.isfinite(value)):
            raise argparse.ArgumentTypeError(f"{text} is not a number above zero")
        return value

    convert.__name__ = kind.__name__
    return convert
