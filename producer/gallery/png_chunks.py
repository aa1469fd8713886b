"""The chunks of a PNG, read without decoding its pixels.

Pillow refuses a file with a text or a colour profile of more than a megabyte, and neither shows in a small copy, so
those of strangers are left out before it sees the file.

Two results that differ only in their text chunks are the same picture, and a small PNG that is whole needs no second
encoding. Both questions are answered by the chunks alone.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from producer.headers.png import PNG_BEGIN

END = b"\x00\x00\x00\x00IEND\xaeB`\x82"  # the last twelve bytes of every whole PNG

# Chunks that hold the pixels, and those that a copy may leave out without changing what a browser shows.
PIXELS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
SILENT = frozenset({b"tEXt", b"iTXt", b"zTXt", b"tIME", b"pHYs"})
VERSION = b"1"  # of the small copies: another one gives them other names
TEXTS = frozenset({b"tEXt", b"iTXt", b"zTXt"})
LONGEST_TEXT = 2**18  # bytes of one that Pillow is given: less than its own limit
OUR_TEXTS = (b"render\0", b"parameters\0")  # what workers write, different in every job
XMP = b"XML:com.adobe.xmp\0"  # holds an orientation


class Chunk(NamedTuple):
    """One chunk: its type, its body, and the whole of it as it stands in the file."""

    kind: bytes
    body: memoryview
    whole: memoryview


def chunks_of(data: bytes) -> list[Chunk] | None:
    """The chunks of a whole PNG, all checksums verified; None for anything else, damaged files included."""
    if not data.startswith(PNG_BEGIN):
        return None
    view, at, chunks = memoryview(data), len(PNG_BEGIN), list[Chunk]()
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data) or zlib.crc32(view[at + 4 : end - 4]) != struct.unpack_from(">I", data, end - 4)[0]:
            return None
        chunks.append(Chunk(kind, view[at + 8 : end - 4], view[at:end]))
        if kind == b"IEND":
            return chunks
        at = end
    return None


def content_name(data: bytes, chunks: Sequence[Chunk] | None) -> str:
    """20 hex digits that name the picture in a file: the same for two results that differ in our texts alone."""
    digest = hashlib.sha256(VERSION)
    if chunks is None:
        digest.update(data)
    else:
        for chunk in chunks:
            if not (chunk.kind in (b"tEXt", b"iTXt") and bytes(chunk.body[:11]).startswith(OUR_TEXTS)):
                digest.update(chunk.whole)
    return digest.hexdigest()[:20]


def without_extras(data: bytes, chunks: Sequence[Chunk]) -> bytes:
    """The PNG as Pillow is given it: without colour profiles, and with no texts but short ones of ours."""
    kept = [chunk for chunk in chunks if not _is_extra(chunk)]
    return data if len(kept) == len(chunks) else PNG_BEGIN + b"".join(chunk.whole for chunk in kept)


def _is_extra(chunk: Chunk) -> bool:
    if chunk.kind not in TEXTS:
        return chunk.kind == b"iCCP"
    if chunk.kind == b"zTXt" or len(chunk.body) > LONGEST_TEXT:
        return True
    keyword, _, text = bytes(chunk.body).partition(b"\0")
    is_packed = chunk.kind == b"iTXt" and text[:1] != b"\0"
    return is_packed or not (keyword + b"\0").startswith((*OUR_TEXTS, XMP))


def plain_copy(chunks: Sequence[Chunk]) -> bytes | None:
    """The PNG with its pixels alone; None where other chunks say how they are to be shown."""
    if not {chunk.kind for chunk in chunks} <= PIXELS | SILENT:
        return None
    return PNG_BEGIN + b"".join(chunk.whole for chunk in chunks if chunk.kind in PIXELS)
