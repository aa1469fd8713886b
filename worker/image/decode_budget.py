"""DecodeBudget: how many pixels a process decodes at once, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# A pixel takes up to 16 bytes while it is decoded (an animated WebP: two canvases of libwebp's, the frame and Pillow's
# copy), and 8 to 12 in other formats. So this many take at most 1 GB, however many jobs are in flight.
PIXELS_AT_ONCE = 64 * 10**6
LOOK_SECONDS = 0.5  # how often a waiting job looks whether it should still go on


class DecodeBudget:
    """A semaphore that counts pixels. Safe to use from many threads.

    Pictures are admitted in the order in which they ask: many small ones cannot starve a large one. A picture that is
    larger than the whole budget is admitted when it is alone.
    """

    def __init__(self, pixels: int = PIXELS_AT_ONCE, *, check: Callable[[], None] = lambda: None) -> None:
        """`check` raises what should end a wait, such as Requeued where the worker is stopping."""
        self._pixels = pixels
        self._check = check
        self._taken = 0
        self._line: deque[object] = deque()
        self._changed = threading.Condition()

    @property
    def waiting(self) -> int:
        """How many pictures are not admitted yet."""
        with self._changed:
            return len(self._line)

    @contextmanager
    def taking(self, pixels: int) -> Iterator[None]:
        """Hold so many pixels of the budget during the block, and wait for them first.

        Raises:
            whatever `check` raises while it waits.
        """
        share = min(pixels, self._pixels)
        self._take(share)
        try:
            yield
        finally:
            with self._changed:
                self._taken -= share
                self._changed.notify_all()

    def _take(self, share: int) -> None:
        ticket = object()
        with self._changed:
            self._line.append(ticket)
            try:
                while self._line[0] is not ticket or self._taken + share > self._pixels:
                    self._check()
                    self._changed.wait(LOOK_SECONDS)
                self._taken += share
            finally:
                self._line.remove(ticket)
                self._changed.notify_all()  # the next in line may fit as well, or be the first now
