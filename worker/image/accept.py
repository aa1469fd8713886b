"""The Accept header of a worker: the formats that its Pillow reads, which not every build does for AVIF and WebP."""

from __future__ import annotations

from PIL import Image

from worker.image.decode import FORMATS


def accepted_types() -> str:
    """The formats' media types, and anything else last: hosts send many a picture as application/octet-stream."""
    Image.init()
    # A build without the library of a format registers a reader that only explains, and no media type.
    types = [Image.MIME[format] for format in FORMATS if format in Image.OPEN and format in Image.MIME]
    return ",".join([*types, "*/*;q=0.1"])
