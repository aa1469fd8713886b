"""Bytes -> pixels, without trusting the bytes.

A JPEG is decoded at its full size: Pillow's draft mode would decode it at an eighth, which is faster, but gives other
pixels than `resize_image` does, and so other edges.
"""

from __future__ import annotations

import struct
import warnings as python_warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from PIL import Image, UnidentifiedImageError, features

from jobs.errors import NotAnImage, SourceTooLarge
from worker.image.heic import heic_is_installed
from worker.image.heif import check_heif
from worker.image.jpeg_file import JPEG_BEGIN
from worker.image.orientation import turn_upright
from worker.image.png_chunks import PNG_BEGIN
from worker.image.sixteen_bits import GreyKind, SixteenBitColours, grey_to_eight_bits, read_native_order
from worker.image.source import FRAMES_COUNTED, Source
from worker.image.strips import filled, strips_of
from worker.image.tiff_directory import INTERPRETATION

HAS_HEIC = heic_is_installed()
HAS_AVIF = "avif" in features.modules and bool(features.check("avif"))  # Pillow 11.3 and later, as it was built
# The decoders that strangers' bytes may reach: a short list, since each is an attack surface.
FORMATS = (
    *("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"),
    *(("AVIF",) if HAS_AVIF else ()),
    *(("HEIF",) if HAS_HEIC else ()),
)
_NAMES = [{"WEBP": "WebP", "HEIF": "HEIC"}.get(name, name) for name in FORMATS]
READABLE = f"{', '.join(_NAMES[:-1])} and {_NAMES[-1]}"

# A progressive JPEG may pass over its picture any number of times. A pass takes a dozen bytes and, at 50 megapixels,
# 10 ms: a file of 64 MiB would keep a core busy for half a day. Cameras and programs write a dozen passes.
JPEG_PASSES = 100  # over the largest picture allowed; smaller ones may have more
JPEG_SCAN = b"\xff\xda"
RARE_COMPRESSIONS = range(34_000, 2**16)  # of a TIFF: not every libtiff has them
NEGATIVES = "negative values were made black"

# The errors of Pillow's decoders for damaged files.
DAMAGED = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    ArithmeticError,
    RuntimeError,  # AVIF
    struct.error,
)

# glibc always gives back the memory of blocks above 32 MiB. Pillow's usual ones of 16 MiB would stay in the heap,
# between what other threads need. A picture that is smaller takes no more than its size.
cast(Any, Image).core.set_block_size(64 * 2**20)
# Our own check of the header replaces Pillow's, which only warns up to twice its limit.
Image.MAX_IMAGE_PIXELS = None


# How files of these formats begin, with what follows too damaged for Pillow to recognise.
BEGINNINGS = {
    PNG_BEGIN: "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"GIF87a": "GIF",
    b"GIF89a": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
}


@dataclass(frozen=True, eq=False)
class Picture:
    """Decoded pixels: uint8 [H, W], [H, W, 3] or [H, W, 4], upright; `warnings` say what decoding changed."""

    pixels: np.ndarray
    warnings: tuple[str, ...]


def decode_image(
    data: bytes,
    *,
    max_pixels: int,
    admit: Callable[[int], object] = lambda pixels: None,  # noqa: ARG005
) -> Picture:
    """Decode the first frame. `admit` is called with the number of pixels before any is decoded, and may wait.

    Raises:
        NotAnImage: the bytes are empty, truncated, of another format, or cannot be decoded.
        SourceTooLarge: the header says more than `max_pixels`; nothing was decoded then.
        whatever `admit` raises.
    """
    if not data:
        raise NotAnImage("the file is empty (0 bytes)")
    source = Source.of(data)
    with python_warnings.catch_warnings():
        python_warnings.simplefilter("ignore")  # Pillow warns of odd metadata
        try:
            with Image.open(source.open(), formats=FORMATS) as image:
                _check_size(image.size, max_pixels)
                _check_tiles(source, max_pixels)
                _check_passes(data, image.size, max_pixels)
                largest = check_heif(data, source.heif, max_pixels=max_pixels) if source.heif else 0
                admit(max(image.width * image.height, largest))
                picture = _decode(image, source)
                _check_size(image.size, max_pixels)  # of a HEIC, only decoding may tell
                return picture
        except UnidentifiedImageError as error:
            raise _not_opened(source) from error
        except DAMAGED as error:
            raise NotAnImage(_not_decoded(source, error)) from error


def _decode(image: Image.Image, source: Source) -> Picture:
    notes: list[str] = []
    frames = min(source.frames or int(getattr(image, "n_frames", 1)), FRAMES_COUNTED)
    if frames > 1:
        which = "main one" if image.format == "HEIF" else "first"
        notes.append(f"the {which} of {frames}{' or more' * (frames == FRAMES_COUNTED)} frames was used")
    if image.format != "HEIF":  # which shows its main picture, wherever that is
        image.seek(0)
    kind, sixteen_bits = GreyKind.of(image), SixteenBitColours.of(image, source.open)
    read_native_order(image)
    image.load()
    turn_upright(image)
    if image.mode.startswith("I"):
        pixels, note = grey_to_eight_bits(image, kind)
        return Picture(pixels, (*notes, note))
    upright: Image.Image = image
    if sixteen_bits is not None:
        upright, note = sixteen_bits.by_range(image)
        notes.append(note)
    pixels, lost = _eight_bit(upright, kind)
    return Picture(pixels, tuple(notes + ([lost] if lost else [])))


def _not_opened(source: Source) -> NotAnImage:
    """Why Pillow does not recognise a file. Another worker may read what is not installed here."""
    if source.heif == "HEIC" and not HAS_HEIC:
        return NotAnImage(
            "the picture is a HEIC, which this worker cannot read: run pip install 'batch-renderer[heic]' there, or "
            "save the picture as JPEG or PNG",
            fault="worker",
        )
    if source.heif == "AVIF" and not HAS_AVIF:
        return NotAnImage(
            "the picture is an AVIF, which the Pillow of this worker cannot read: install Pillow 11.3 or later there, "
            "or save the picture as JPEG or PNG",
            fault="worker",
        )
    return NotAnImage(_not_recognised(source))


def _not_recognised(source: Source) -> str:
    if source.tiff is not None and source.tiff.is_whole:
        # Where 0 is white, Pillow reads fewer kinds.
        black = "" if source.tiff.first(INTERPRETATION, 0) else " and 0 as black"
        advice = f"save it with 8 or 16 bits a channel{black}, or as PNG"
        return f"this kind of TIFF cannot be read ({source.tiff}); {advice}"
    begin = next((name for magic, name in BEGINNINGS.items() if source.data.startswith(magic)), None)
    begin = begin or source.heif
    if begin is not None:
        return f"the picture is truncated or damaged: it begins as a {begin} and does not go on as one"
    return f"not a picture that can be read: it begins with {source.data[:8]!r}; {READABLE} can"


def _not_decoded(source: Source, error: Exception) -> str:
    if source.tiff is not None and source.tiff.compression in RARE_COMPRESSIONS:
        return f"the picture is damaged, or a kind of TIFF that cannot be read here ({source.tiff}): {error}"
    return f"the picture is truncated or damaged: {str(error).strip()}"


def _eight_bit(image: Image.Image, kind: GreyKind) -> tuple[np.ndarray, str | None]:
    """Pixels as uint8 [H, W], [H, W, 3] or [H, W, 4], and what was lost on the way."""
    if image.mode == "F":
        return _scaled_by_range(image, kind), "floating-point values were scaled to 8 bits by their range"
    if kind.has_signed_bytes:
        return _without_negatives(image)
    mode, note = _eight_bit_mode(image)

    def converted(strip: Image.Image) -> np.ndarray:
        plain = strip.convert("LA") if strip.mode == "La" else strip  # which Pillow converts to nothing else
        return np.asarray(plain if plain.mode == mode else plain.convert(mode))

    return filled(image, len(Image.new(mode, (1, 1)).getbands()), converted), note


def _eight_bit_mode(image: Image.Image) -> tuple[str, str | None]:
    """L, RGB or RGBA, and what is lost by converting to it."""
    mode = image.mode
    if "transparency" in image.info or mode in ("LA", "PA", "La", "RGBa"):
        return "RGBA", None
    if mode in ("L", "RGB", "RGBA"):
        return mode, None
    if mode == "1":
        return "L", None
    return "RGB", f"{mode} was converted to RGB without its colour profile" if mode != "P" else None


def _without_negatives(image: Image.Image) -> tuple[np.ndarray, str | None]:
    """Mode L of signed bytes -> uint8 [H, W], and whether there were negative values: they are black."""
    pixels = filled(image, 1, lambda strip: np.asarray(strip).view(np.int8).clip(0).view(np.uint8))
    _, largest = cast(tuple[int, int], image.getextrema())
    return pixels, NEGATIVES if largest > np.iinfo(np.int8).max else None


def _scaled_by_range(image: Image.Image, kind: GreyKind) -> np.ndarray:
    """Floating point -> uint8: the least value becomes 0, the greatest 255, or the reverse; NaN and infinity 0."""
    low, high = np.inf, -np.inf
    for _, strip in strips_of(image):
        values = np.asarray(strip)
        values = values[np.isfinite(values)]
        low, high = min(low, float(values.min(initial=np.inf))), max(high, float(values.max(initial=-np.inf)))
    if low > high:
        raise NotAnImage("the picture's floating-point values are not numbers")
    spread = high - low if high > low else 1.0

    def scaled(strip: Image.Image) -> np.ndarray:
        values = np.asarray(strip)
        finite = np.isfinite(values)
        shares = (np.where(finite, values, low).astype(np.float64) - low) / spread
        rounded: np.ndarray = np.where(finite, kind.shown((shares * 255).round().astype(np.uint8)), np.uint8(0))
        return rounded

    return filled(image, 1, scaled)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width * height > max_pixels:
        raise SourceTooLarge(
            f"the picture has {width}x{height} = {width * height:,} pixels; {max_pixels:,} are allowed "
            "(RENDER_MAX_PIXELS)"
        )
    if width < 1 or height < 1:
        raise NotAnImage(f"the picture has {width}x{height} pixels")


def _check_tiles(source: Source, max_pixels: int) -> None:
    """A TIFF of a few pixels may have tiles of millions, which a decoder needs memory for."""
    if source.tiff is not None and source.tiff.tile_pixels > max_pixels:
        raise SourceTooLarge(
            f"the TIFF has tiles of {source.tiff.tile_pixels:,} pixels; {max_pixels:,} are allowed (RENDER_MAX_PIXELS)"
        )


def _check_passes(data: bytes, size: tuple[int, int], max_pixels: int) -> None:
    if not data.startswith(JPEG_BEGIN):
        return
    passes = data.count(JPEG_SCAN)  # in compressed data a 0xff is never followed by 0xda
    if passes * size[0] * size[1] > JPEG_PASSES * max_pixels:
        raise NotAnImage(f"the JPEG passes {passes:,} times over its pixels, where a dozen is usual: save it again")
