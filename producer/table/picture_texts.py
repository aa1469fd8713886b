"""The texts in a picture that say how it was made, read without decoding or even loading its pixels.

A PNG has them in text chunks, `render` (ours, JSON) and `parameters` (infotext). A JPEG and a WebP have infotext in
EXIF's UserComment, among texts of cameras; a text there that is a JSON object with our keys is taken for `render`.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image

from jobs.infotext import read_infotext
from producer.headers.png import PNG_BEGIN
from producer.picture_texts import DAMAGED_EXIF, exif_text, user_comment, without_warnings

TEXTS = (b"tEXt", b"iTXt", b"zTXt")
LONGEST_TEXT = 2**20  # bytes of a text, unpacked; ours have at most some 40,000
KEYWORDS = ("render", "parameters")
OUR_KEYS = frozenset({"image", "prompt", "job", "seed"})

# EXIF: the tags that tools write texts into. Two of them are in a part of its own.
EXIF_PART, USER_COMMENT, MAKER_NOTE = 0x8769, 0x9286, 0x927C
IMAGE_DESCRIPTION, XP_COMMENT = 0x010E, 0x9C9C
# What Pillow raises for a file that is not a picture, or has damaged EXIF.
UNREADABLE = (*DAMAGED_EXIF, Image.DecompressionBombError)


class DamagedText(ValueError):
    """A picture has a text that cannot be read."""


class PictureTexts(NamedTuple):
    """What a picture says of itself: our JSON object, and infotext."""

    render: dict[str, Any] | None = None
    parameters: str | None = None


def picture_texts(path: Path) -> PictureTexts:
    """Read a picture's texts; both are None if it has none, or is not a picture.

    Raises:
        DamagedText: a text is damaged or too long.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        is_png = file.read(len(PNG_BEGIN)) == PNG_BEGIN
        texts = _png_texts(file) if is_png else dict[str, str]()
    if is_png:
        return PictureTexts(_ours(texts.get("render")), texts.get("parameters"))
    found = list(_exif_texts(path))
    ours = next((record for text in found if (record := _ours(text)) is not None), None)
    return PictureTexts(ours, next(filter(_is_infotext, found), None))


def _is_infotext(text: str) -> bool:
    """Whether a text of EXIF says parameters: cameras and phones write their own texts there."""
    return "Steps:" in text and "Steps" in read_infotext(text).settings


def _ours(text: str | None) -> dict[str, Any] | None:
    """The JSON object that a worker wrote; None for anything else, as other programs use such names too."""
    if text is None or not text.lstrip().startswith("{"):
        return None
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and record.keys() >= OUR_KEYS else None


def _png_texts(file: BinaryIO) -> dict[str, str]:
    """The texts by keyword; of several with one keyword, the last, as Pillow has it."""
    texts: dict[str, str] = {}
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            break
        if kind not in TEXTS or length > LONGEST_TEXT:
            file.seek(length + 4, 1)  # pixels and their like; beyond the end there is nothing to read
            continue
        body, checksum = file.read(length), file.read(4)
        keyword = body.partition(b"\0")[0].decode("latin-1")
        if keyword not in KEYWORDS:
            continue
        if checksum != struct.pack(">I", zlib.crc32(kind + body)):
            raise DamagedText(f"its text {keyword!r} is damaged")
        texts[keyword] = _png_text(kind, body, keyword)
    return texts


def _png_text(kind: bytes, body: bytes, keyword: str) -> str:
    rest = body.partition(b"\0")[2]
    try:
        if kind == b"tEXt":
            return rest.decode("latin-1")
        if kind == b"zTXt":
            return _unpacked(rest[1:], keyword).decode("latin-1")
        is_packed, (_, _, text) = rest[:1] == b"\1", rest[2:].split(b"\0", 2)
        return (_unpacked(text, keyword) if is_packed else text).decode("utf-8")
    except (zlib.error, ValueError) as error:
        raise DamagedText(f"its text {keyword!r} is damaged") from error


def _unpacked(data: bytes, keyword: str) -> bytes:
    unpacker = zlib.decompressobj()
    text = unpacker.decompress(data, LONGEST_TEXT)
    if unpacker.unconsumed_tail:
        raise DamagedText(f"its text {keyword!r} has more than {LONGEST_TEXT:,} bytes")
    return text


def _exif_texts(path: Path) -> Iterator[str]:
    """The texts that the EXIF of a JPEG or a WebP holds; none where it cannot be read."""
    try:
        # Pillow warns of a picture's size, and this one is not decoded.
        with without_warnings(), Image.open(path, formats=("JPEG", "WEBP")) as image:
            exif = image.getexif()
            inner = exif.get_ifd(EXIF_PART)
        values = (inner.get(USER_COMMENT), exif.get(IMAGE_DESCRIPTION), exif.get(XP_COMMENT), inner.get(MAKER_NOTE))
    except UNREADABLE:
        return
    for number, value in enumerate(values):
        text = user_comment(value) if number == 0 else exif_text(value, utf16=number == 2)
        if text and len(text) <= LONGEST_TEXT:
            yield text
