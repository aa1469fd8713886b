"""The blocks of a GIF: its first frame alone, and how many frames there are.

Pillow counts frames by reading all of them, which takes seconds for a large animation, and it gathers a comment in time
that grows with the square of its length. Only the first frame is decoded here, so only its blocks are given to Pillow.
"""

from __future__ import annotations

import contextlib
import re

GIF_BEGIN = (b"GIF87a", b"GIF89a")
SCREEN = 13  # bytes of the header and the logical screen
EXTENSION, IMAGE, TRAILER = b"!", b",", b";"
BLOCK = re.compile(rb"[!,;]")  # decoders pass over other bytes between blocks
GRAPHIC_CONTROL = 0xF9  # an image's transparency


class Cut(Exception):
    """The file ends within a block."""


def first_frame(data: bytes, *, limit: int) -> tuple[list[memoryview], int]:
    """The parts of a GIF that hold its first frame, and the number of its frames, counted up to a limit.

    A GIF that is damaged up to its first frame stays whole, so that whoever reads it finds the damage.
    """
    view = memoryview(data)
    at = SCREEN + _table_bytes(data[10]) if len(data) > SCREEN else len(data)
    screen, control, image, frames = view[:at], view[:0], view[:0], 0
    with contextlib.suppress(Cut):
        while frames < limit and (block := BLOCK.search(data, at)) and block[0] != TRAILER:
            begin, at = block.start(), _end(data, block.start())
            if block[0] == IMAGE:
                image = image or view[begin:at]
                frames += 1
            elif data[begin + 1] == GRAPHIC_CONTROL and not frames:
                control = view[begin:at]
    return ([screen, control, image, memoryview(TRAILER)], frames) if frames else ([view], 1)


def _end(data: bytes, begin: int) -> int:
    """Where the extension or the image that begins here ends."""
    if data[begin : begin + 1] == EXTENSION:
        return _after_parts(data, begin + 2)
    if len(data) <= begin + 9:
        raise Cut
    # Position and size, flags, a table of colours, and the code size of the compression.
    return _after_parts(data, begin + 10 + _table_bytes(data[begin + 9]) + 1)


def _table_bytes(flags: int) -> int:
    return 3 * 2 ** ((flags & 7) + 1) if flags & 0x80 else 0


def _after_parts(data: bytes, at: int) -> int:
    """Where a sequence of parts of up to 255 bytes ends: after an empty one."""
    size = len(data)
    while at < size and data[at]:
        at += data[at] + 1
    if at >= size:
        raise Cut
    return at + 1
