"""From the bytes of a picture to those of its small copy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from producer.gallery.pixel_budget import PixelBudget
from producer.gallery.png_chunks import Chunk, plain_copy
from producer.picture_texts import without_warnings

LONGEST_SIDE = 448  # pixels: sharp at the 224 CSS pixels of a narrow column on a dense screen
# A picture that is hardly larger is only encoded again: resampling it would take twice the time of the encoding.
NOT_RESAMPLED_SIDE = 576
PLAIN_COPY_BYTES = 64 * 2**10  # edges are small as they are
JPEG_QUALITY = 80  # JPEG takes a tenth of WebP's time for a fifth more bytes

SMALLER_DEPTHS = (10, 12, 14)  # bits of a picture that is kept in 16: worker/image/sixteen_bits.py
OPAQUE_MODES = frozenset({"1", "L", "P", "RGB"})  # that browsers show as Pillow does

# What Pillow raises for files that are not pictures, or are damaged.
UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError)

_decoding = PixelBudget()


class TooManyPixels(ValueError):
    """A picture is larger than RENDER_MAX_PIXELS."""


class SmallCopy(NamedTuple):
    """A small copy: its bytes, the end of its file name, and its size in pixels."""

    data: bytes
    suffix: str
    width: int
    height: int


def small_copy(data: bytes, *, max_pixels: int, chunks: Sequence[Chunk] | None) -> SmallCopy:
    """Make the small copy of a picture. `chunks` are those of a PNG, where the picture is one.

    Raises:
        UNREADABLE: it is not a picture, is damaged, or is larger than `max_pixels`.
    """
    with opened(data) as image:
        if image.width * image.height > max_pixels:
            raise TooManyPixels(
                f"{image.width:,} x {image.height:,} pixels are more than the {max_pixels:,} of RENDER_MAX_PIXELS"
            )
        if chunks is not None and is_opaque(image) and max(image.size) <= NOT_RESAMPLED_SIDE:
            plain = plain_copy(chunks)
            if plain is not None and len(plain) <= PLAIN_COPY_BYTES:
                return SmallCopy(plain, ".png", *image.size)
        with _decoding.taking(image.width * image.height):
            picture = _small(image)
            image.close()  # frees the pixels before others take their share
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=JPEG_QUALITY)
    return SmallCopy(buffer.getvalue(), ".jpg", *picture.size)


def why_unreadable(error: Exception) -> str:
    """Why there is no small copy, for people. `error` is one of UNREADABLE."""
    if isinstance(error, TooManyPixels):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return "it has far too many pixels"
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged from its beginning on, or of no known format"
    return "it is damaged, or of an unusual kind"


def opened(data: bytes) -> Image.Image:
    """A picture whose header has been read, and whose pixels have not been decoded."""
    with without_warnings():  # of its size, which `small_copy` checks before decoding
        image = Image.open(io.BytesIO(data))
    if image.format in ("AVIF", "HEIF"):
        image.info.pop("xmp", None)  # their own properties alone turn these, as browsers show them
    return image


def is_opaque(image: Image.Image) -> bool:
    """Whether a browser shows the picture as its small copy would look, whatever is behind it."""
    return image.mode in OPAQUE_MODES and "transparency" not in image.info


def _small(image: Image.Image) -> Image.Image:
    picture = _continuous(image)
    if max(picture.size) > NOT_RESAMPLED_SIDE:
        # A gap of 1 lets JPEG decode at the smallest scale that suffices, an eighth for a photograph of a camera.
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE), Image.Resampling.HAMMING, reducing_gap=1.0)
    return _on_white(ImageOps.exif_transpose(picture))


def _continuous(image: Image.Image) -> Image.Image:
    """With values that can be averaged: palettes and deep grey as colours and grey of eight bits.

    Grey of 10 to 16 bits is shown by its depth, as workers read it; Pillow alone would make all but the darkest white.
    """
    if image.mode == "P":
        return image.convert("RGBA" if "transparency" in image.info else "RGB")
    if image.mode == "1":
        return image.convert("L")
    if image.mode == "La":  # which Pillow converts to nothing else
        return image.convert("LA")
    if not image.mode.startswith("I"):
        return image
    _, largest = image.getextrema()
    bits = next((depth for depth in SMALLER_DEPTHS if largest < 2**depth), 16)
    return image.convert("I").point(lambda value: value * (255 / (2**bits - 1))).convert("L")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image if image.mode in ("L", "RGB") else image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(paper, layer).convert("RGB")
