"""What a picture says of how it was made, whatever its format: read from its header, no pixel is decoded.

A PNG has text chunks. A JPEG or WebP has EXIF: `parameters` is the UserComment, as AUTOMATIC1111's web interface and
our workers write it, and `render`, our workers' JSON, the ImageDescription.
"""

from __future__ import annotations

import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

from PIL import ExifTags, Image

PARAMETERS, RENDER = "parameters", "render"
CODE_BYTES = 8  # in front of a UserComment, for its encoding
UNICODE, UTF8 = b"UNICODE\0", bytes(CODE_BYTES)
# What Pillow raises for EXIF that is damaged.
DAMAGED_EXIF = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, struct.error)

_silence = threading.Lock()


def texts_of(image: Image.Image) -> dict[str, str]:
    """`parameters` and `render` of an opened picture, those of them that it has."""
    texts = {name: str(image.info[name]) for name in (PARAMETERS, RENDER) if isinstance(image.info.get(name), str)}
    # Pillow would decode a PNG for its EXIF, which may stand behind the pixels.
    return texts if texts or image.format == "PNG" else _texts_of_exif(image)


@contextmanager
def without_warnings() -> Iterator[None]:
    """Keep Pillow's remarks on odd files off the terminal. That changes the whole process: one thread at a time."""
    with _silence, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _texts_of_exif(image: Image.Image) -> dict[str, str]:
    try:
        with without_warnings():
            exif = image.getexif()
            description = exif.get(ExifTags.Base.ImageDescription)
            comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    except DAMAGED_EXIF:
        return {}
    texts = {}
    if text := user_comment(comment):
        texts[PARAMETERS] = text
    if isinstance(description, str) and description.startswith("{"):  # cameras put a title there
        texts[RENDER] = description
    return texts


def user_comment(value: object) -> str:
    """EXIF's UserComment as text: eight bytes that name its encoding, then the text; '' for bytes that are not text.

    Without one of the known names it is UTF-8, as the web interface reads it.
    """
    value = _as_bytes(value)
    if not isinstance(value, bytes):
        return exif_text(value)
    code, text = value[:CODE_BYTES], value[CODE_BYTES:]
    if code == UNICODE:
        return _utf16(text)
    if code.rstrip(b"\0") == b"ASCII" or code == UTF8:
        return exif_text(text)
    return value.decode("utf-8", "ignore").rstrip("\0")


def exif_text(value: object, *, utf16: bool = False) -> str:
    """A value of EXIF as text, from UTF-8 or UTF-16 if it is bytes; '' for a value that is not text."""
    value = _as_bytes(value)
    if isinstance(value, bytes):
        value = _utf16(value) if utf16 else value.decode("utf-8", "replace")
    return value.rstrip("\0") if isinstance(value, str) else ""


def _as_bytes(value: object) -> object:
    """Bytes instead of a tuple of them: Pillow gives either, by the type that the file names."""
    is_bytes = isinstance(value, tuple) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in value)
    return bytes(cast("tuple[int, ...]", value)) if is_bytes else value


def _utf16(data: bytes) -> str:
    """UTF-16 in the order that its mark says, or else in which its Latin letters are letters.

    Some programs use the order of the EXIF's numbers, and piexif always big-endian. The other byte of a Latin letter
    is 0.
    """
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace").rstrip("\0")
    is_little = data[1::2].count(0) > data[::2].count(0)
    return data.decode("utf-16-le" if is_little else "utf-16-be", "replace").rstrip("\0")
