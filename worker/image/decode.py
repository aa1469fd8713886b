"""Bytes -> pixels, without trusting the bytes."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings as python_warnings
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from jobs.errors import NotAnImage, SourceTooLarge
from worker.image.sixteen_bits import SixteenBitColours, grey_to_eight_bits, has_twelve_bit_grey

# The decoders that strangers' bytes may reach: a short list, since each is an attack surface.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
READABLE = "PNG, JPEG, WebP, GIF, BMP and TIFF"

# A progressive JPEG may pass over its picture any number of times. A pass takes a dozen bytes and, at 50 megapixels,
# 10 ms: a file of 64 MiB would keep a core busy for half a day. Cameras and programs write a dozen passes.
JPEG_PASSES = 100  # over the largest picture allowed; smaller ones may have more
JPEG_BEGIN, JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
FRAMES_COUNTED = 1000  # of a TIFF, where each frame takes a look-up

# The errors of Pillow's decoders for damaged files.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ZeroDivisionError,
    struct.error,
)

# Our own check of the header replaces Pillow's, which only warns up to twice its limit.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels: uint8 [H, W], [H, W, 3] or [H, W, 4], upright; `warnings` say what decoding changed."""

    pixels: np.ndarray
    warnings: tuple[str, ...]


def decode_image(data: bytes, *, max_pixels: int) -> Picture:
    """Decode the first frame.

    Raises:
        NotAnImage: the bytes are empty, truncated, of another format, or cannot be decoded.
        SourceTooLarge: the header says more than `max_pixels`; nothing was decoded then.
    """
    if not data:
        raise NotAnImage("the file is empty (0 bytes)")
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, max_pixels)
                _check_passes(data, image.size, max_pixels)
                return _decode(image, data)
        except UnidentifiedImageError as error:
            raise NotAnImage(f"not a picture that can be read: it begins with {data[:8]!r}; {READABLE} can") from error
        except DAMAGED as error:
            raise NotAnImage(f"the picture is truncated or damaged: {error}") from error


def _decode(image: Image.Image, data: bytes) -> Picture:
    notes: list[str] = []
    frames = _frames(image)
    if frames > 1:
        notes.append(f"the first of {frames}{' or more' * (frames == FRAMES_COUNTED)} frames was used")
    image.seek(0)
    has_twelve, sixteen_bits = has_twelve_bit_grey(image), SixteenBitColours.of(image, data)
    image.load()
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I"):
        pixels, note = grey_to_eight_bits(upright, has_twelve=has_twelve)
        return Picture(pixels, (*notes, note))
    if sixteen_bits is not None:
        upright, note = sixteen_bits.by_range(upright)
        notes.append(note)
    pixels, lost = _eight_bit(upright)
    return Picture(pixels, tuple(notes + ([lost] if lost else [])))


def _frames(image: Image.Image) -> int:
    if image.format != "TIFF":
        return int(getattr(image, "n_frames", 1))
    number = 1
    with contextlib.suppress(EOFError):
        while number < FRAMES_COUNTED:
            image.seek(number)
            number += 1
    return number


def _eight_bit(image: Image.Image) -> tuple[np.ndarray, str | None]:
    """Pixels as uint8 [H, W], [H, W, 3] or [H, W, 4], and what was lost on the way."""
    mode = image.mode
    if mode == "F":
        return _scaled_by_range(np.asarray(image)), "floating-point values were scaled to 8 bits by their range"
    if "transparency" in image.info or mode in ("LA", "PA", "La", "RGBa"):
        return np.asarray(image.convert("RGBA")), None
    if mode in ("L", "RGB", "RGBA"):
        return np.asarray(image), None
    if mode == "1":
        return np.asarray(image.convert("L")), None
    note = f"{mode} was converted to RGB without its colour profile" if mode != "P" else None
    return np.asarray(image.convert("RGB")), note


def _scaled_by_range(values: np.ndarray) -> np.ndarray:
    """Floating point -> uint8: the least value becomes 0, the greatest 255, NaN and infinity 0."""
    finite = np.isfinite(values)
    if not finite.any():
        raise NotAnImage("the picture's floating-point values are not numbers")
    low, high = float(values[finite].min()), float(values[finite].max())
    spread = high - low if high > low else 1.0
    scaled: np.ndarray = np.where(finite, (values.astype(np.float64) - low) / spread * 255, 0).round().astype(np.uint8)
    return scaled


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise SourceTooLarge(
            f"the picture has {width}x{height} = {width * height:,} pixels; {max_pixels:,} are allowed "
            "(RENDER_MAX_PIXELS)"
        )
    if width < 1 or height < 1:
        raise NotAnImage(f"the picture has {width}x{height} pixels")


def _check_passes(data: bytes, size: tuple[int, int], max_pixels: int) -> None:
    if not data.startswith(JPEG_BEGIN):
        return
    passes = data.count(JPEG_SCAN)  # in compressed data a 0xff is never followed by 0xda
    if passes * size[0] * size[1] > JPEG_PASSES * max_pixels:
        raise NotAnImage(f"the JPEG passes {passes:,} times over its pixels, where a dozen is usual: save it again")
