"""The boxes that AVIF, HEIC and other files of ISO/IEC 14496-12 consist of."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from worker.image.bitstreams import Damaged

# Boxes whose meaning we follow. All others may occur many times; their contents do not matter here.
ONCE = frozenset(b"meta moov pitm iinf iloc iref iprp ipco idat mdia minf stbl stsd stsz stco co64 av1C".split())
MOST_BOXES = 10_000  # in one box; a photograph of many tiles has a few hundred


class Box(NamedTuple):
    """One box: its type, and its body."""

    kind: bytes
    body: memoryview


class Fields:
    """A body, read field by field. All numbers are big-endian."""

    def __init__(self, body: memoryview) -> None:
        self._body = body
        self._at = 0

    @property
    def rest(self) -> memoryview:
        """The bytes that were not read yet."""
        return self._body[self._at :]

    def number(self, size: int) -> int:
        """An unsigned number of so many bytes; 0 for no bytes."""
        return int.from_bytes(self.raw(size))

    def raw(self, size: int) -> bytes:
        """The next `size` bytes.

        Raises:
            Damaged: fewer are left.
        """
        self._at += size
        if self._at > len(self._body):
            raise Damaged("a box ends early")
        return bytes(self._body[self._at - size : self._at])

    def version(self) -> tuple[int, int]:
        """The version and the flags that a full box begins with."""
        return self.number(1), self.number(3)


def boxes_of(body: memoryview, *, is_file: bool = False) -> Iterator[Box]:
    """The boxes in a body, or in a file, which may end with other bytes: phones put notes of their own there.

    Raises:
        Damaged: there are far too many, or one has no length.
    """
    at, number = 0, 0
    while at + 8 <= len(body):
        size, begin = int.from_bytes(body[at : at + 4]), at + 8
        if size == 1:
            size, begin = int.from_bytes(body[at + 8 : at + 16]), at + 16
        end = at + size if size else len(body)
        if end < begin and is_file:
            return
        if end < begin:
            raise Damaged("a box is shorter than its header")
        yield Box(bytes(body[at + 4 : at + 8]), body[begin:end])
        at, number = end, number + 1
        if number > MOST_BOXES:
            raise Damaged(f"it has more than {MOST_BOXES:,} boxes")


def by_kind(body: memoryview, *, is_file: bool = False) -> dict[bytes, memoryview]:
    """The bodies of boxes of which there is one each, by type; those of which there are several are left out.

    Raises:
        Damaged: there are two of a type that may be there once: decoders would not agree which one counts.
    """
    bodies: dict[bytes, memoryview] = {}
    for box in boxes_of(body, is_file=is_file):
        if box.kind in bodies and box.kind in ONCE:
            raise Damaged(f"it has two boxes {box.kind.decode('ascii')!r}")
        bodies[box.kind] = box.body
    return bodies
