"""PixelBudget: how many pixels the threads of a gallery decode at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

PIXELS_AT_ONCE = 64 * 10**6  # a pixel takes up to 12 bytes while its small copy is made: at most 800 MB


class PixelBudget:
    """A semaphore that counts pixels. A picture that is larger than the whole budget is admitted when it is alone."""

    def __init__(self, pixels: int = PIXELS_AT_ONCE) -> None:
        self._pixels = pixels
        self._taken = 0
        self._changed = threading.Condition()

    @contextmanager
    def taking(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels of the budget during the block, and wait for them first."""
        share = min(pixels, self._pixels)
        with self._changed:
            self._changed.wait_for(lambda: self._taken + share <= self._pixels)
            self._taken += share
        try:
            yield
        finally:
            with self._changed:
                self._taken -= share
                self._changed.notify_all()
