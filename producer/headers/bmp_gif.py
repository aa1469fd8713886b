"""BMP and GIF: their sizes stand near the beginning."""

from __future__ import annotations

import struct

from jobs.errors import NotAnImage
from producer.headers.parts import Parts
from producer.headers.raw_header import RawHeader

BMP_HEADERS = (40, 52, 56, 64, 108, 124)  # bytes, by version; the oldest has 12
GIF_SCREEN = 13  # bytes of the header and the logical screen
EXTENSION, IMAGE, TRAILER = 0x21, 0x2C, 0x3B


def bmp_header(parts: Parts) -> RawHeader:
    """The size of a bitmap; a negative height means that its rows go from top to bottom."""
    (size,) = struct.unpack("<I", parts.need(14, 4))
    if size == 12:
        return RawHeader(*struct.unpack("<HH", parts.need(18, 4)))
    if size not in BMP_HEADERS:
        raise NotAnImage(f"a BMP with a header of {size} bytes cannot be read")
    width, height = struct.unpack("<Ii", parts.need(18, 8))
    return RawHeader(width, abs(height))


def gif_header(parts: Parts) -> RawHeader:
    """The size of the screen, which grows where the first frame is larger."""
    width, height, flags = struct.unpack("<HHB", parts.need(6, 5))
    at = GIF_SCREEN + _table_bytes(flags)
    while True:
        (kind,) = parts.need(at, 1)
        if kind == EXTENSION:
            at = _after_parts(parts, at + 2)
        elif kind == IMAGE:
            left, top, wide, high = struct.unpack("<HHHH", parts.need(at + 1, 8))
            return RawHeader(max(width, left + wide), max(height, top + high))
        elif kind == TRAILER:
            raise NotAnImage("the GIF has no frame")
        else:
            at += 1  # decoders pass over other bytes between blocks


def _after_parts(parts: Parts, at: int) -> int:
    """Where a sequence of parts of up to 255 bytes ends: behind an empty one."""
    while size := parts.need(at, 1)[0]:
        at += size + 1
    return at + 1


def _table_bytes(flags: int) -> int:
    """Bytes of a table of colours."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
