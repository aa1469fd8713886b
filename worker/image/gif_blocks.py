"""The blocks of a GIF: its first frame alone, and how many frames there are.

Pillow counts frames by reading all of them, which takes seconds for a large animation, and it gathers a comment in time
that grows with the square of its length. Only the first frame is decoded here, so only its blocks are given to Pillow.

Each block and each of its parts costs time however short it is, so no more than so many are looked at.
"""

from __future__ import annotations

import re

from jobs.errors import NotAnImage

GIF_BEGIN = (b"GIF87a", b"GIF89a")
SCREEN = 13  # bytes of the header and the logical screen
EXTENSION, IMAGE, TRAILER = b"!", b",", b";"
BLOCK = re.compile(rb"[!,;]")  # decoders pass over other bytes between blocks
GRAPHIC_CONTROL = 0xF9  # an image's transparency
MOST_BLOCKS = 100_000  # about a second's work
MOST_PARTS = 10**6  # of at most 255 bytes; a file of 64 MiB has 260,000


class Cut(Exception):
    """The file ends within a block."""


class TooMany(Cut):
    """The file has more blocks or parts than are looked at."""


def first_frame(data: bytes, *, limit: int) -> tuple[list[memoryview], int]:
    """The parts of a GIF that hold its first frame, and the number of its frames, counted up to a limit.

    A GIF that is damaged up to its first frame stays whole, so that the decoder finds the damage.

    Raises:
        NotAnImage: more than MOST_BLOCKS or MOST_PARTS come before the end of the first frame.
    """
    view = memoryview(data)
    blocks = _Blocks(data)
    screen, control, image, frames = view[: blocks.at], view[:0], view[:0], 0
    try:
        while frames < limit and (begin := blocks.following()) is not None:
            if data[begin : begin + 1] == IMAGE:
                image = image or view[begin : blocks.at]
                frames += 1
            elif data[begin + 1] == GRAPHIC_CONTROL and not frames:
                control = view[begin : blocks.at]
    except TooMany as error:
        if not frames:
            raise NotAnImage(f"the GIF has {error} before its first frame ends: save it again") from error
    except Cut:
        pass
    return ([screen, control, image, memoryview(TRAILER)], frames) if frames else ([view], 1)


class _Blocks:
    """Extensions and images in their order; `at` is where the last one ends."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._blocks_left, self._parts_left = MOST_BLOCKS, MOST_PARTS
        self.at = SCREEN + _table_bytes(data[10]) if len(data) > SCREEN else len(data)

    def following(self) -> int | None:
        """Where the next one begins; None after the last. Raises Cut, or TooMany."""
        block = BLOCK.search(self._data, self.at)
        if block is None or block[0] == TRAILER:
            return None
        self._blocks_left -= 1
        if self._blocks_left < 0:
            raise TooMany(f"more than {MOST_BLOCKS:,} blocks")
        begin = block.start()
        if block[0] == EXTENSION:
            self._pass_parts(begin + 2)
        elif len(self._data) <= begin + 9:
            raise Cut
        else:  # position and size, flags, a table of colours, and the code size of the compression
            self._pass_parts(begin + 10 + _table_bytes(self._data[begin + 9]) + 1)
        return begin

    def _pass_parts(self, at: int) -> None:
        """Move to where a sequence of parts of up to 255 bytes ends: after an empty one."""
        data, size, left = self._data, len(self._data), self._parts_left
        while at < size and data[at] and left:
            at += data[at] + 1
            left -= 1
        if at >= size:
            raise Cut
        if data[at]:
            raise TooMany(f"more than {MOST_PARTS:,} parts of blocks")
        self.at, self._parts_left = at + 1, left


def _table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0
