"""The texts of a result in EXIF, where image tools look for them in files other than PNGs.

`parameters` is the UserComment, in UTF-16 behind the header `UNICODE`, as AUTOMATIC1111's web interface writes it with
piexif. Its reader takes the text for big-endian whatever the EXIF says, so both are big-endian here. `render`, our
JSON, is the ImageDescription, which is ASCII: other characters are escaped as JSON escapes them.

The directories are written here: Pillow gives a UserComment the type of bytes, and piexif reads those as numbers.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence

from PIL import ExifTags

UNICODE = b"UNICODE\0"
ASCII, LONG, UNDEFINED = 2, 4, 7  # types of TIFF
HEADER = b"MM\0*" + struct.pack(">I", 8)  # big-endian; the first directory follows

Entry = tuple[int, int, bytes]  # tag, type, value


def exif_of(texts: Mapping[str, str], *, limit: int | None) -> bytes:
    """`Exif`, two NULs and TIFF directories, at most `limit` bytes; nothing where there is no text.

    Where both texts are too long for a file (prompts of ten thousand Chinese characters), it has `parameters` alone:
    the sidecar holds the rest as well.
    """
    for names in (("parameters", "render"), ("parameters",)):
        exif = _exif({name: texts[name] for name in names if name in texts})
        if limit is None or len(exif) <= limit:
            return exif
    return b""


def _exif(texts: Mapping[str, str]) -> bytes:
    if not texts:
        return b""
    first: list[Entry] = []
    if "render" in texts:
        description = json.dumps(json.loads(texts["render"]), sort_keys=True).encode() + b"\0"
        first.append((ExifTags.Base.ImageDescription, ASCII, description))
    if "parameters" in texts:
        comment = UNICODE + texts["parameters"].encode("utf-16-be", "surrogatepass")
        first.append((ExifTags.IFD.Exif, LONG, bytes(4)))  # of the length that the directory's place has
        place = len(HEADER) + len(_directory(first, at=len(HEADER)))
        first[-1] = (ExifTags.IFD.Exif, LONG, struct.pack(">I", place))
        second = _directory([(ExifTags.Base.UserComment, UNDEFINED, comment)], at=place)
    else:
        second = b""
    return b"Exif\0\0" + HEADER + _directory(first, at=len(HEADER)) + second


def _directory(entries: Sequence[Entry], *, at: int) -> bytes:
    """A TIFF directory that begins at `at`, with its values behind it. `entries` are sorted by tag."""
    values_at = at + 2 + 12 * len(entries) + 4
    directory, values = struct.pack(">H", len(entries)), b""
    for tag, kind, value in entries:
        directory += struct.pack(">HHI", tag, kind, len(value) // (4 if kind == LONG else 1))
        if len(value) <= 4:
            directory += value.ljust(4, b"\0")
        else:
            directory += struct.pack(">I", values_at + len(values))
            values += value + b"\0" * (len(value) % 2)  # values begin at even places
    return directory + bytes(4) + values
