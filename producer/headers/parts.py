"""Parts: a file as a reader of headers sees it. Bytes come when they are asked for, and there is an end to it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from jobs.errors import NotAnImage
from jobs.storage.part import Part

FIRST_BYTES = 64 * 2**10  # most headers end within these
MOST_BYTES_AT_ONCE = 2**20
MOST_PARTS = 12  # a header in more places than these is made to be slow
MOST_READS = 50_000  # likewise; a camera's JPEG takes thirty
KEPT_PARTS = 4
FARTHEST = 2**48  # bytes; a place behind them is in no file

ReadPart = Callable[[int, int], Part]  # (start, size)


class _Kept(NamedTuple):
    start: int
    data: bytes


class Parts:
    """One file. `read` fetches a part of it; what was fetched lately is kept. For one thread."""

    def __init__(self, read: ReadPart) -> None:
        self._read = read
        self._kept: deque[_Kept] = deque(maxlen=KEPT_PARTS)
        self._parts_left, self._reads_left = MOST_PARTS, MOST_READS
        self._end: int | None = None  # of the file, where it is known

    def upto(self, start: int, size: int) -> bytes:
        """At most `size` bytes (up to MOST_BYTES_AT_ONCE) from `start` on; fewer at the file's end.

        Raises:
            NotAnImage: the header is spread over so many places, or is so long, that only an attack has such a one.
            What `read` raises.
        """
        self._reads_left -= 1
        if self._reads_left < 0:
            raise NotAnImage("the picture's header has tens of thousands of parts: save it again")
        size = min(size, (FARTHEST if self._end is None else self._end) - start)
        if size <= 0:
            return b""
        for kept in self._kept:
            inside = start - kept.start
            if inside >= 0 and inside + size <= len(kept.data):
                return kept.data[inside : inside + size]
        return self._fetched(start, size)[:size]

    def need(self, start: int, size: int) -> bytes:
        """`size` bytes from `start` on.

        Raises:
            NotAnImage: the file ends before. As `upto`.
        """
        data = self.upto(start, size)
        if len(data) < size:
            raise NotAnImage("the picture is truncated: its file ends within its header")
        return data

    def tail(self, size: int) -> bytes | None:
        """The last `size` bytes of the file, or all of a shorter one; None where its length is not known."""
        if self._end is None:
            return None
        return self.upto(max(0, self._end - size), min(size, self._end))

    def _fetched(self, start: int, size: int) -> bytes:
        if not self._parts_left:
            raise NotAnImage("the picture's header is spread over too many places of its file: save it again")
        ahead = min(FIRST_BYTES << MOST_PARTS - self._parts_left, MOST_BYTES_AT_ONCE)
        self._parts_left -= 1
        asked = max(size, ahead)
        data, total = self._read(start, asked)
        if total is not None:
            self._end = total
        elif len(data) < asked and (data or not start):
            self._end = start + len(data)
        self._kept.appendleft(_Kept(start, data))
        return data
