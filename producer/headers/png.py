"""PNG: the size comes first. What turns it may stand before the pixels or, as some programs write it, behind them."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import suppress

from jobs.errors import NotAnImage
from producer.headers.parts import Parts
from producer.headers.raw_header import RawHeader

PNG_BEGIN = b"\x89PNG\r\n\x1a\n"
FRAME, CHECKSUM = 8, 4  # bytes of a chunk around its body
PIXELS, END = (b"IDAT", b"fdAT"), b"IEND"
EXIF, TEXTS = b"eXIf", (b"tEXt", b"zTXt", b"iTXt")
XMP_KEYWORD, EXIF_KEYWORD = b"XML:com.adobe.xmp", b"Raw profile type exif"
LONGEST = 2**20  # bytes of EXIF, or of a text, also unpacked: a worker leaves out what is longer
TAIL_BYTES = 64 * 2**10
IN_TAIL = re.compile(b"|".join((EXIF, *TEXTS)))

Chunk = tuple[bytes, bytes]  # name and body


def png_header(parts: Parts) -> RawHeader:
    """The size in IHDR. The first chunk of each kind that says an orientation counts."""
    length, name, width, height = struct.unpack(">I4sII", parts.need(len(PNG_BEGIN), 16))
    if name != b"IHDR" or length < 13:
        raise NotAnImage("the PNG is damaged: it does not begin with its size")
    found: dict[str, bytes] = {}
    for chunk in _before_pixels(parts):
        _note(chunk, found)
    if "exif" not in found and width != height:
        for chunk in _behind_pixels(parts):
            _note(chunk, found)
    text = found.get("exif_text")
    return RawHeader(
        width,
        height,
        exif=found.get("exif"),
        xmp=found.get("xmp"),
        exif_text=None if text is None else text.decode("latin-1"),
    )


def _before_pixels(parts: Parts) -> Iterator[Chunk]:
    at = len(PNG_BEGIN)
    while len(head := parts.upto(at, FRAME)) == FRAME:
        length, name = struct.unpack(">I4s", head)
        if name in PIXELS or name == END:
            return
        if name == EXIF or name in TEXTS:
            yield name, parts.need(at + FRAME, length) if length <= LONGEST else b""
        at += FRAME + length + CHECKSUM


def _behind_pixels(parts: Parts) -> Iterator[Chunk]:
    """The chunks in the last bytes of the file that have the right checksum."""
    tail = parts.tail(TAIL_BYTES) or b""
    for match in IN_TAIL.finditer(tail):
        at = match.start()
        length = int.from_bytes(tail[max(0, at - 4) : at])
        end = at + 4 + length
        if at >= 4 and tail[end : end + CHECKSUM] == zlib.crc32(tail[at:end]).to_bytes(4):
            yield match[0], tail[at + 4 : end]


def _note(chunk: Chunk, found: dict[str, bytes]) -> None:
    name, body = chunk
    if name == EXIF:
        if body:
            found.setdefault("exif", b"Exif\0\0" + body)
        return
    keyword, _, text = body.partition(b"\0")
    kind = {XMP_KEYWORD: "xmp", EXIF_KEYWORD: "exif_text"}.get(keyword)
    if kind is None or kind in found:
        return
    with suppress(zlib.error):
        found[kind] = _unpacked(name, text)


def _unpacked(name: bytes, text: bytes) -> bytes:
    if name == b"tEXt":
        return text
    if name == b"zTXt":
        return _inflated(text[1:])
    # Between the two flags and the text: a language and a translated keyword.
    words = text[2:].split(b"\0", 2)[-1]
    return _inflated(words) if text[:1] == b"\1" else words


def _inflated(packed: bytes) -> bytes:
    unpacking = zlib.decompressobj()
    text = unpacking.decompress(packed, LONGEST)
    return b"" if unpacking.unconsumed_tail else text
