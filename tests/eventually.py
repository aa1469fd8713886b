"""Waiting for what gives no event to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(true: Callable[[], object], *, seconds: float = 15.0, what: str = "") -> float:
    """Wait until `true()` is; returns the seconds it took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what or true}"
        time.sleep(0.005)
    return time.monotonic() - began
