"""The chunks of a PNG that say something of its pixels.

Pillow reads all of them, and takes a text or a colour profile of more than a megabyte for an attack, which it may be.
Neither changes a pixel here, so such chunks are left out before Pillow sees the file: it refuses no good picture, and
unpacks no bomb.
"""

from __future__ import annotations

import struct
import zlib

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
HEADER, CHECKSUM = 8, 4  # bytes of a chunk around its body

# Beside the critical chunks, whose names begin with a capital: transparency, orientation, and an animation's frames.
PIXEL_CHUNKS = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})
TEXT_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# Two texts can hold an orientation: XMP, and EXIF as ImageMagick writes it.
ORIENTATION_KEYWORDS = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif"})
LONGEST_TEXT = 2**20  # bytes, unpacked: Pillow's own limit
LONGEST_EXIF = 2**20


def without_extras(data: bytes) -> list[memoryview]:
    """The parts of a PNG without texts, colour profiles and other chunks that no pixel depends on.

    The bytes from the first damaged chunk on stay as they are, so that whoever reads them finds the damage.
    """
    kept: list[list[int]] = [[0, len(PNG_BEGIN)]]  # runs of bytes, begin and end
    at = len(PNG_BEGIN)
    while at + HEADER <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + HEADER + length + CHECKSUM
        if end > len(data) or not name.isalpha():
            break
        if _matters(name, data, at + HEADER, length):
            _add(kept, at, end)
        at = end
        if name == b"IEND":
            return _parts(data, kept)
    _add(kept, at, len(data))
    return _parts(data, kept)


def _matters(name: bytes, data: bytes, begin: int, length: int) -> bool:
    if name in TEXT_CHUNKS:
        return _has_orientation(name, data[begin : begin + min(length, LONGEST_TEXT + 1)])
    if name == b"eXIf":
        return length <= LONGEST_EXIF
    return name in PIXEL_CHUNKS or name[:1].isupper()


def _has_orientation(name: bytes, body: bytes) -> bool:
    """Whether this text may hold an orientation and is short enough for Pillow."""
    keyword, _, text = body.partition(b"\0")
    if keyword not in ORIENTATION_KEYWORDS or len(body) > LONGEST_TEXT:
        return False
    if name == b"tEXt":
        return True
    if name == b"zTXt":
        return _unpacks_to_little(text[1:])
    is_compressed = text[:1] == b"\1"
    # Between the two flags and the text: a language and a translated keyword.
    return not is_compressed or _unpacks_to_little(text[2:].split(b"\0", 2)[-1])


def _unpacks_to_little(packed: bytes) -> bool:
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(packed, LONGEST_TEXT)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail


def _add(kept: list[list[int]], begin: int, end: int) -> None:
    if kept[-1][1] == begin:
        kept[-1][1] = end
    else:
        kept.append([begin, end])


def _parts(data: bytes, kept: list[list[int]]) -> list[memoryview]:
    return [memoryview(data)[begin:end] for begin, end in kept]
