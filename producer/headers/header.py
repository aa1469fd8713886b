"""The size of any picture that workers read, from its header.

It is the size that a worker sees once it has turned the picture upright: worker/image/decode.py reads the same formats
with Pillow. The readers beside this file read a few dozen bytes each, and no pixels, so that a file of many megabytes
on a distant host costs one or two small requests.
"""

from __future__ import annotations

from collections.abc import Callable

from jobs.errors import NotAnImage
from producer.headers.bmp_gif import bmp_header, gif_header
from producer.headers.heif import LONGEST_BRANDS, heif_header, is_heif
from producer.headers.jpeg import jpeg_header
from producer.headers.parts import Parts
from producer.headers.png import PNG_BEGIN, png_header
from producer.headers.raw_header import RawHeader
from producer.headers.tiff import TIFF_BEGIN, tiff_header
from producer.headers.webp import webp_header

READABLE = "PNG, JPEG, WebP, GIF, BMP, TIFF, AVIF and HEIC can"
READERS: tuple[tuple[tuple[bytes, ...], Callable[[Parts], RawHeader]], ...] = (
    ((b"\xff\xd8\xff",), jpeg_header),
    ((PNG_BEGIN,), png_header),
    ((b"GIF87a", b"GIF89a"), gif_header),
    ((b"BM",), bmp_header),
    (TIFF_BEGIN, tiff_header),
)


def upright_size(parts: Parts) -> tuple[int, int]:
    """Width and height in pixels of a picture's first frame, the right way up.

    Raises:
        NotAnImage: it is of no format that is read here, or its header is damaged.
        What reading a part raises.
    """
    begin = parts.upto(0, LONGEST_BRANDS)
    if not begin:
        raise NotAnImage("the file is empty (0 bytes)")
    size = _reader(begin)(parts).upright()
    if min(size) < 1:
        raise NotAnImage(f"the picture has {size[0]}x{size[1]} pixels")
    return size


def _reader(begin: bytes) -> Callable[[Parts], RawHeader]:
    for beginnings, reader in READERS:
        if begin.startswith(beginnings):
            return reader
    if begin[:4] == b"RIFF" and begin[8:12] == b"WEBP":
        return webp_header
    if is_heif(begin):
        return heif_header
    raise NotAnImage(f"not a picture that can be read: it begins with {begin[:8]!r}; {READABLE}")
