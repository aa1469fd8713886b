"""A picture in strips of rows, so that no step needs a second copy of all its pixels."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

PIXELS_AT_ONCE = 2**18  # numpy turns each index of a look-up into 8 bytes: 2 MB a channel


def row_slices(height: int, width: int) -> Iterator[slice]:
    """Slices of rows, each of about PIXELS_AT_ONCE pixels and at least one row, from the top down."""
    rows = max(1, PIXELS_AT_ONCE // max(1, width))
    return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def strips_of(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """A loaded picture's rows, from the top down, and a picture of those rows."""
    for rows in row_slices(image.height, image.width):
        yield rows, image.crop((0, rows.start, image.width, rows.stop))


def filled(image: Image.Image, channels: int, eight_bit: Callable[[Image.Image], np.ndarray]) -> np.ndarray:
    """uint8 [H, W], or [H, W, C] for several channels: what `eight_bit` makes of each strip.

    `np.asarray(image)` would hold three copies of the pixels at its peak: Pillow's, the parts and their sum.
    """
    shape = (image.height, image.width) if channels == 1 else (image.height, image.width, channels)
    pixels = np.empty(shape, np.uint8)
    for rows, strip in strips_of(image):
        pixels[rows] = eight_bit(strip)
    return pixels
