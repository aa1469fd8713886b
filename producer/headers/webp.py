"""WebP: the size comes first; EXIF and XMP come last, where the flags at the beginning say that there are any."""

from __future__ import annotations

import struct

from jobs.errors import NotAnImage
from producer.headers.parts import Parts
from producer.headers.raw_header import RawHeader

FIRST_CHUNK = 12
HAS_XMP, HAS_EXIF, IS_ANIMATED = 0x04, 0x08, 0x02
VP8_START, VP8L_START = b"\x9d\x01\x2a", 0x2F
MOST_CHUNKS = 64
LONGEST = 2**20  # bytes of EXIF or XMP
TAIL_BYTES = 256 * 2**10


def webp_header(parts: Parts) -> RawHeader:
    """The canvas of a WebP, or the only frame's size."""
    begin = parts.need(0, 30) if parts.upto(12, 4) != b"VP8L" else parts.need(0, 25)
    kind = begin[12:16]
    if kind == b"VP8 " and begin[23:26] == VP8_START:
        width, height = struct.unpack("<HH", begin[26:30])
        return RawHeader(width & 0x3FFF, height & 0x3FFF)
    if kind == b"VP8L" and begin[20] == VP8L_START:
        (bits,) = struct.unpack("<I", begin[21:25])
        return RawHeader((bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1)
    if kind != b"VP8X":
        raise NotAnImage("the WebP is damaged: it does not begin with its size")
    width, height = 1 + int.from_bytes(begin[24:27], "little"), 1 + int.from_bytes(begin[27:30], "little")
    flags = begin[20]
    if width == height or not flags & (HAS_EXIF | HAS_XMP):
        return RawHeader(width, height)
    exif, xmp = _metadata(parts, is_animated=bool(flags & IS_ANIMATED))
    return RawHeader(width, height, exif=exif if flags & HAS_EXIF else None, xmp=xmp if flags & HAS_XMP else None)


def _metadata(parts: Parts, *, is_animated: bool) -> tuple[bytes | None, bytes | None]:
    """EXIF and XMP. An animation has a chunk a frame, so its end is searched instead."""
    if is_animated:
        tail = parts.tail(TAIL_BYTES) or b""
        return _in_tail(tail, b"EXIF"), _in_tail(tail, b"XMP ")
    found: dict[bytes, bytes] = {}
    at = FIRST_CHUNK
    for _ in range(MOST_CHUNKS):
        head = parts.upto(at, 8)
        if len(head) < 8 or len(found) == 2:
            break
        name, length = struct.unpack("<4sI", head)
        if name in (b"EXIF", b"XMP ") and name not in found and length <= LONGEST:
            found[name] = parts.upto(at + 8, length)
        at += 8 + length + length % 2
    return found.get(b"EXIF"), found.get(b"XMP ")


def _in_tail(tail: bytes, name: bytes) -> bytes | None:
    """The last chunk of this name that ends within the file."""
    at = tail.rfind(name)
    while at >= 0:
        length = int.from_bytes(tail[at + 4 : at + 8], "little")
        if length and at + 8 + length <= len(tail):
            return tail[at + 8 : at + 8 + length]
        at = tail.rfind(name, 0, at)
    return None
