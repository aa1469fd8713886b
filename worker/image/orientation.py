"""Pictures the right way up: cameras store them as the sensor lay, and say in EXIF how to turn them."""

from __future__ import annotations

import contextlib
import struct

from PIL import Image, ImageOps

# What Pillow raises for EXIF that is damaged. Such a picture stays as it is stored: its pixels are good.
DAMAGED_EXIF = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, ArithmeticError, struct.error)


def turn_upright(image: Image.Image) -> None:
    """Turn a loaded picture in place, without a second copy that lives on."""
    if image.format in ("AVIF", "HEIF"):
        image.info.pop("xmp", None)  # their own properties alone turn these, as browsers show them
    with contextlib.suppress(*DAMAGED_EXIF):
        ImageOps.exif_transpose(image, in_place=True)
