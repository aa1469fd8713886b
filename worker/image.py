"""Bytes -> pixels, without trusting the bytes; and pixels -> PNG."""

from __future__ import annotations

import io
import json
import struct
import warnings as python_warnings
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageOps, PngImagePlugin, UnidentifiedImageError

from jobs.errors import NotAnImage, SourceTooLarge

# What decoders are fed: a short list, for each is an attack surface.
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
# Level 1 with zlib's filters: 3 times as fast as level 6 for 8% more bytes, and a rendering has to wait for it.
COMPRESS_LEVEL = 1

# What Pillow's decoders raise for damaged files.
_DAMAGED = (
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
    """Decoded pixels: uint8 [H, W], [H, W, 3] or [H, W, 4], upright, and what a person should know about them."""

    pixels: np.ndarray
    warnings: tuple[str, ...]


def decode_image(data: bytes, *, max_pixels: int) -> Picture:
    """Decode the first frame.

    Raises:
        NotAnImage: empty, truncated, another format, or nothing that can be decoded.
        SourceTooLarge: more than `max_pixels` by its header; nothing was decoded then.
    """
    if not data:
        raise NotAnImage("the file is empty (0 bytes)")
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image.size, max_pixels)
                return _decode(image)
        except UnidentifiedImageError as error:
            raise NotAnImage(f"not a picture that can be read: it begins with {data[:8]!r}; {_expected()}") from error
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            IndexError,
            KeyError,
            TypeError,
            ZeroDivisionError,
        ) as error:
            # Pillow's decoders raise all of these for damaged files.
            raise NotAnImage(f"the picture is truncated or damaged: {error}") from error


def _decode(image: Image.Image) -> Picture:
    notes: list[str] = []
    frames = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"the first of {frames} frames was used")
    image.seek(0)
    image.load()
    upright = ImageOps.exif_transpose(image)
    pixels, note = _eight_bit(upright)
    return Picture(pixels, tuple(notes + ([note] if note else [])))


def _eight_bit(image: Image.Image) -> tuple[np.ndarray, str | None]:
    """Pixels as uint8 [H, W], [H, W, 3] or [H, W, 4], and what was lost on the way."""
    mode = image.mode
    if mode.startswith("I") or mode == "F":
        return _scaled(np.asarray(image), mode)
    if mode in ("L", "RGB", "RGBA"):
        return np.asarray(image), None
    if mode == "1":
        return np.asarray(image.convert("L")), None
    if "transparency" in image.info or mode in ("LA", "PA", "La", "RGBa"):
        return np.asarray(image.convert("RGBA")), None
    if mode in ("CMYK", "LAB", "HSV", "YCbCr"):
        return np.asarray(image.convert("RGB")), f"{mode} was converted to RGB without its colour profile"
    return np.asarray(image.convert("RGB")), None


def _scaled(values: np.ndarray, mode: str) -> tuple[np.ndarray, str]:
    """16 bits -> 8 bits by their range; floating point by its own range."""
    numbers = values.astype(np.float32)
    if mode == "F":
        low, high = float(numbers.min()), float(numbers.max())
        numbers = (numbers - low) * (255.0 / (high - low) if high > low else 0.0)
        return numbers.round().astype(np.uint8), "floating-point values were scaled to 8 bits by their range"
    scaled: np.ndarray = (numbers / 257.0).round().clip(0, 255).astype(np.uint8)
    return scaled, "16 bits a channel were reduced to 8"


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise SourceTooLarge(
            f"the picture has {width}x{height} = {width * height:,} pixels; {max_pixels:,} are allowed "
            "(RENDER_MAX_PIXELS)"
        )
    if width < 1 or height < 1:
        raise NotAnImage(f"the picture has {width}x{height} pixels")


def _expected() -> str:
    return "PNG, JPEG, WebP, GIF, BMP and TIFF can"


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
