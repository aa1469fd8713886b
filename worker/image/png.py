"""Pixels -> PNG with text chunks."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping

import numpy as np
from PIL import Image, PngImagePlugin

# Level 1 of zlib takes a third of the time of level 6, the default, for a tenth more bytes (photographs of 512x512
# pixels), and other jobs wait for the core.
COMPRESS_LEVEL = 1


def encode_png(pixels: np.ndarray, texts: Mapping[str, str]) -> bytes:
    """uint8 [H, W] or [H, W, 3] -> PNG with text chunks (tEXt, or iTXt where Latin-1 does not suffice)."""
    info = PngImagePlugin.PngInfo()
    for name, text in texts.items():
        try:
            text.encode("latin-1")
            info.add_text(name, text)
        except UnicodeEncodeError:
            info.add_itxt(name, text)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG", compress_level=COMPRESS_LEVEL, pnginfo=info)
    return buffer.getvalue()


def as_json(parameters: Mapping[str, object]) -> str:
    """Parameters for a text chunk."""
    return json.dumps(parameters, sort_keys=True, ensure_ascii=False)
