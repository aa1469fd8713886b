"""Pixels -> a result's file: PNG, JPEG or WebP, with the texts that say how it was made.

The same pixels and texts give the same bytes with the same libraries: a job that two workers render has one result.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from worker.image.exif_texts import exif_of
from worker.image.png import encode_png

DEFAULT_QUALITY = {"jpeg": 95, "webp": 90}
# From here on a JPEG keeps its colours at full resolution: below, the losses of its steps hide those of its colours.
FULL_COLOUR_QUALITY = 90
JPEG_EXIF_BYTES = 65_533  # of a JPEG's segment; a WebP's chunk has no limit


def encode_picture(pixels: np.ndarray, texts: Mapping[str, str], *, format: str, quality: int | None = None) -> bytes:
    """uint8 [H, W, 3] -> a file of `format` (png, jpeg or webp). `quality` is 1 to 100; None is the format's default.

    `texts` are `parameters`, as image tools read it, and `render`, JSON: text chunks of a PNG, EXIF of the others.
    """
    if format == "png":
        return encode_png(pixels, texts)
    quality = DEFAULT_QUALITY[format] if quality is None else quality
    limit = JPEG_EXIF_BYTES if format == "jpeg" else None
    options: dict[str, Any] = {"quality": quality, "exif": exif_of(texts, limit=limit)}
    if format == "jpeg":
        options["subsampling"] = "4:4:4" if quality >= FULL_COLOUR_QUALITY else "4:2:0"
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format.upper(), **options)
    return buffer.getvalue()
