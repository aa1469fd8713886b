"""The chunks of a PNG that say something of its pixels.

Pillow reads all of them, and takes a text or a colour profile of more than a megabyte for an attack, which it may be.
Neither changes a pixel here, so such chunks are left out before Pillow sees the file: it refuses no good picture, and
unpacks no bomb.

Each chunk costs time and memory however short it is, so a file with far too many is refused.
"""

from __future__ import annotations

import re
import struct
import zlib

from jobs.errors import NotAnImage

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
HEADER, CHECKSUM = 8, 4  # bytes of a chunk around its body

# Beside the critical chunks, whose names begin with a capital: transparency, orientation, and an animation's frames.
PIXEL_CHUNKS = frozenset({b"tRNS", b"eXIf", b"acTL", b"fcTL", b"fdAT"})
TEXT_CHUNKS = frozenset({b"tEXt", b"zTXt", b"iTXt"})
# Two texts can hold an orientation: XMP, and EXIF as ImageMagick writes it.
ORIENTATION_KEYWORDS = frozenset({b"XML:com.adobe.xmp", b"Raw profile type exif"})
LONGEST_KEYWORD = 80  # bytes, with the zero behind it
LONGEST_TEXT = 2**20  # bytes, unpacked: Pillow's own limit
LONGEST_EXIF = 2**20
MOST_CHUNKS = 100_000  # a picture of 64 MiB has about 8,000, of 8 KiB each; this many take about a second

CHUNK_NAME = re.compile(rb"\w{4}")  # of the chunks that Pillow does not take for damage


def without_extras(data: bytes) -> list[memoryview]:
    """The parts of a PNG without texts, colour profiles and other chunks that no pixel depends on.

    The bytes from the first damaged chunk on stay as they are, so that the decoder finds the damage.

    Raises:
        NotAnImage: it has more than MOST_CHUNKS.
    """
    kept: list[list[int]] = [[0, len(PNG_BEGIN)]]  # runs of bytes, begin and end
    at, number, seen = len(PNG_BEGIN), 0, set[bytes]()
    while at + HEADER <= len(data):
        length, name = struct.unpack_from(">I4s", data, at)
        end = at + HEADER + length + CHECKSUM
        if end > len(data) or not CHUNK_NAME.match(name):
            break
        number += 1
        if number > MOST_CHUNKS:
            raise NotAnImage(f"the PNG has more than {MOST_CHUNKS:,} chunks, where a few are usual: save it again")
        if _matters(name, memoryview(data)[at + HEADER : end - CHECKSUM], seen):
            _add(kept, at, end)
        at = end
        if name == b"IEND":
            return _parts(data, kept)
    _add(kept, at, len(data))
    return _parts(data, kept)


def _matters(name: bytes, body: memoryview, seen: set[bytes]) -> bool:
    """Whether a pixel may depend on it. Of what says an orientation, the first of its kind does."""
    if name in TEXT_CHUNKS:
        keyword = bytes(body[:LONGEST_KEYWORD]).partition(b"\0")[0]
        return keyword in ORIENTATION_KEYWORDS and _is_first(keyword, seen) and _is_for_pillow(name, bytes(body))
    if name == b"eXIf":
        return _is_first(name, seen) and len(body) <= LONGEST_EXIF
    return name in PIXEL_CHUNKS or name[:1].isupper()


def _is_first(kind: bytes, seen: set[bytes]) -> bool:
    """Whether it is; a second one costs no more than this, for it may be one of a million that unpack to a megabyte."""
    is_first = kind not in seen
    seen.add(kind)
    return is_first


def _is_for_pillow(name: bytes, body: bytes) -> bool:
    """Whether a text is short enough for Pillow."""
    text = body.partition(b"\0")[2]
    if len(body) > LONGEST_TEXT:
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
