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
    if isinstance(comment, (bytes, tuple)) and (text := _comment(bytes(comment))):
        texts[PARAMETERS] = text
    if isinstance(description, str) and description.startswith("{"):  # cameras put a title there
        texts[RENDER] = description
    return texts


def _comment(comment: bytes) -> str:
    """A UserComment as text. Without one of the known headers it is UTF-8, as the web interface reads it."""
    code, text = comment[:CODE_BYTES], comment[CODE_BYTES:]
    if code == UNICODE:
        # Some programs use the order of the EXIF's numbers, and piexif always this one. Latin letters tell: their
        # other byte is 0.
        is_little = text[1::2].count(0) > text[::2].count(0)
        return text.decode("utf-16-le" if is_little else "utf-16-be", "replace").rstrip("\0")
    if code.rstrip(b"\0") == b"ASCII" or code == UTF8:
        return text.decode("utf-8", "replace").rstrip("\0")
    return comment.decode("utf-8", "ignore").rstrip("\0")
