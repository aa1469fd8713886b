"""Wait for something that sends no event to wait for."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(true: Callable[[], object], *, seconds: float = 60.0, what: str = "") -> float:
    """Wait until `true()` is true, and return the seconds that it took.

    `seconds` is when to give up, not what is expected: on a busy machine everything takes longer.
    """
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds, f"not within {seconds} s: {what or true}"
        time.sleep(0.005)
    return time.monotonic() - began
