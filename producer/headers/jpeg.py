"""JPEG: the segments before the pixels, of which most are passed over unread."""

from __future__ import annotations

import struct

from jobs.errors import NotAnImage
from producer.headers.parts import Parts
from producer.headers.raw_header import RawHeader

FRAMES = frozenset({*range(0xC0, 0xD0), 0xDE} - {0xC4, 0xC8, 0xCC})  # start of frame, in all its kinds
ALONE = frozenset({0x00, *range(0xD0, 0xDA)} - {0xD9})  # markers without a body, and stuffing
PIXELS, END, EXIF_OR_XMP = 0xDA, 0xD9, 0xE1
EXIF_BEGIN, XMP_BEGIN = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"
MOST_EXIF = 100  # segments; one is usual


def jpeg_header(parts: Parts) -> RawHeader:
    """The size in the last start of frame before the pixels; EXIF in several segments is joined, as Pillow does."""
    size: tuple[int, int] | None = None
    exif: list[bytes] = []
    xmp: bytes | None = None
    at = 2
    while True:
        at, marker = _marker(parts, at)
        if marker in (PIXELS, END):
            break
        (length,) = struct.unpack(">H", parts.need(at, 2))
        if length < 2:
            raise NotAnImage("the JPEG is damaged: a segment has no length")
        if marker in FRAMES:
            height, width = struct.unpack(">HH", parts.need(at + 3, 4))
            size = width, height
        elif marker == EXIF_OR_XMP:
            body = parts.need(at + 2, length - 2)
            if body.startswith(EXIF_BEGIN):
                exif.append(body[len(EXIF_BEGIN) :] if exif else body)
            elif body.startswith(XMP_BEGIN):
                xmp = body[len(XMP_BEGIN) :]
        if len(exif) > MOST_EXIF:
            raise NotAnImage(f"the JPEG has more than {MOST_EXIF} segments of EXIF, where one is usual: save it again")
        at += length
    if size is None:
        raise NotAnImage("the JPEG is damaged: its pixels begin before its size")
    return RawHeader(*size, exif=b"".join(exif) if exif else None, xmp=xmp)


def _marker(parts: Parts, at: int) -> tuple[int, int]:
    """The next marker that has a body, or ends the header, and where that body begins."""
    while True:
        first, second = parts.need(at, 2)
        if first != 0xFF or second == 0xFF:
            at += 1
        elif second in ALONE:
            at += 2
        else:
            return at + 2, second
