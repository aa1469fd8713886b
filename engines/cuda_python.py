"""What all calls of cuda-python have in common: they return (error, value...) and raise nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def done(result: tuple[Any, ...], words: Callable[[Any], str]) -> Any:
    """The value of a call, None where it has none.

    Raises:
        RuntimeError: 'CUDA error: ' and `words(error)`, by which a worker tells memory that ran out from a lost device.
    """
    error, *values = result
    if int(error) != 0:
        raise RuntimeError(f"CUDA error: {words(error)}")
    return values[0] if values else None
