"""Small copies of pictures: a page of thousands loads quickly, works offline and shows pictures from a bucket."""

from __future__ import annotations

import io
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from jobs.errors import RenderError, SourceNotFound
from jobs.storage.file import write_whole
from jobs.storage.http import FetchLimits
from jobs.storage.store import read_bytes
from producer.console import place

LONGEST_SIDE = 448  # pixels: sharp at the 224 CSS pixels of a narrow column on a dense screen
WEBP_QUALITY = 80

SMALLER_DEPTHS = (10, 12, 14)  # bits of a picture that is kept in 16: worker/image/sixteen_bits.py

# What Pillow raises for files that are not pictures, or are damaged.
UNREADABLE = (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError)

# `warnings.catch_warnings` changes the whole process for a moment: one thread at a time.
_opening = threading.Lock()


@dataclass(frozen=True)
class Thumbnail:
    """A small copy: its file and size in pixels; or why there is none."""

    path: Path | None
    width: int = 0
    height: int = 0
    problem: str | None = None


class Thumbnails:
    """Small copies in one folder. Those that are newer than their picture are kept."""

    def __init__(self, folder: Path, limits: FetchLimits, max_pixels: int) -> None:
        self._folder = folder
        self._limits = limits
        self._max_pixels = max_pixels
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, uri: str, name: str, *, made_at: float) -> Thumbnail:
        """The small copy of a picture, named `name`. Safe from many threads.

        `made_at` is when the picture was made, in seconds since the epoch.
        """
        path = self._folder / f"{name}.webp"
        try:
            if path.is_file() and path.stat().st_mtime > made_at:
                with Image.open(path) as copy:
                    return Thumbnail(path, *copy.size)
            picture = _small(read_bytes(uri, self._limits), self._max_pixels)
        except SourceNotFound:
            return Thumbnail(None, problem=f"not found from here: {place(uri)}")
        except RenderError as error:
            return Thumbnail(None, problem=str(error))
        except UNREADABLE as error:
            return Thumbnail(None, problem=f"not a readable picture ({type(error).__name__})")
        write_whole(path, _webp(picture), durable=False)
        return Thumbnail(path, *picture.size)


def text_chunk(data: bytes, name: str) -> str | None:
    """The text chunk `name` of a picture, or None; the pixels are not decoded."""
    try:
        with _opened(data) as image:
            text = image.info.get(name)
    except UNREADABLE:
        return None
    return str(text) if text is not None else None


def _opened(data: bytes) -> Image.Image:
    with _opening, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_small` checks the size before it decodes
        return Image.open(io.BytesIO(data))


def _small(data: bytes, max_pixels: int) -> Image.Image:
    with _opened(data) as image:
        if image.width * image.height > max_pixels:
            raise ValueError(f"{image.width} x {image.height} pixels")
        picture = _eight_bit(image)
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        return _on_white(ImageOps.exif_transpose(picture))


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 10 to 16 bits by its depth, as workers read it; Pillow alone would make all but the darkest white."""
    if not image.mode.startswith("I"):
        return image
    _, largest = image.getextrema()
    bits = next((depth for depth in SMALLER_DEPTHS if largest < 2**depth), 16)
    return image.convert("I").point(lambda value: value * (255 / (2**bits - 1))).convert("L")


def _webp(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=WEBP_QUALITY, method=2)
    return buffer.getvalue()


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in ("RGBA", "LA", "PA") and "transparency" not in image.info:
        return image.convert("RGB")
    layer = image.convert("RGBA")
    paper = Image.new("RGBA", layer.size, "white")
    return Image.alpha_composite(paper, layer).convert("RGB")
