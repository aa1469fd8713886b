"""Pictures for the fuzz tests: small ones in every format and mode, and ways to damage them."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
from hypothesis import strategies as st
from PIL import Image

from tests.sixteen_bit_files import png16, tiff16
from worker.image.decode import HAS_AVIF, HAS_HEIC

WIDTH, HEIGHT = 17, 13
SAVED: tuple[tuple[str, tuple[str, ...], tuple[dict[str, Any], ...]], ...] = (
    ("PNG", ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"), ({},)),
    ("JPEG", ("L", "RGB", "CMYK"), ({}, {"progressive": True})),
    ("WEBP", ("RGB", "RGBA"), ({}, {"lossless": True}, {"save_all": True})),
    ("GIF", ("P", "L"), ({}, {"save_all": True})),
    ("BMP", ("1", "L", "P", "RGB"), ({},)),
    (
        "TIFF",
        ("L", "RGB", "RGBA", "CMYK", "F", "I;16", "LAB"),
        ({}, {"compression": "tiff_lzw"}, {"compression": "tiff_adobe_deflate"}, {"save_all": True}),
    ),
    ("TIFF", ("1",), ({"compression": "group4"}, {"compression": "packbits"})),
    ("TIFF", ("RGB",), ({"compression": "jpeg"},)),
    ("TIFF", ("I",), ({},)),
    *((("AVIF", ("RGB", "RGBA"), ({}, {"save_all": True})),) if HAS_AVIF else ()),
    *((("HEIF", ("L", "RGB", "RGBA"), ({}, {"save_all": True})),) if HAS_HEIC else ()),
)
MAGIC = (
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"RIFF\x40\0\0\0WEBPVP8 ",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"\0\0\0\x20ftypavif",
    b"\0\0\0\x18ftypheic",
)


@cache
def pictures() -> tuple[bytes, ...]:
    """One file for each format, mode and set of options; and colours of 12 bits in 16, which Pillow cannot write."""
    written = tuple(
        _saved(_picture(mode), format_, options)
        for format_, modes, several in SAVED
        for mode in modes
        for options in several
    )
    values = np.random.default_rng(2).integers(0, 4096, (HEIGHT, WIDTH, 4), dtype=np.uint16)
    colours = np.ascontiguousarray(values[:, :, :3])
    deep = (png16(colours), png16(values), png16(values[:, :, :2]), tiff16(colours), tiff16(colours, compressed=True))
    return written + deep + (tiff16(colours, planes=True), tiff16(values, extra_sample=1))


def _picture(mode: str) -> Image.Image:
    pixels = np.random.default_rng(1).integers(0, 255, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    if mode == "I;16":
        return Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    if mode == "LAB":
        return Image.new("LAB", (WIDTH, HEIGHT), (120, 3, 200))
    image = Image.fromarray(pixels)
    return image.convert("L").convert(mode) if mode in ("1", "P", "F", "I", "LA") else image.convert(mode)


def _saved(image: Image.Image, format_: str, options: dict[str, Any]) -> bytes:
    several = {"append_images": [image.transpose(Image.Transpose.ROTATE_180)]} if "save_all" in options else {}
    exif = Image.Exif()
    exif[0x0112] = 6
    extra = {"exif": exif} if format_ in ("PNG", "JPEG", "WEBP") else {}
    buffer = io.BytesIO()
    image.save(buffer, format_, **options, **several, **extra)
    return buffer.getvalue()


# (where, what): a position as a share of the file, and what is done there
_PLACES = st.one_of(st.integers(0, 150), st.integers(0, 5000))
_EDITS = st.one_of(
    st.tuples(st.just("set"), _PLACES, st.binary(min_size=1, max_size=4)),
    st.tuples(
        st.just("set"), _PLACES, st.sampled_from([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80"])
    ),
    st.tuples(st.just("insert"), _PLACES, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("delete"), _PLACES, st.binary(min_size=1, max_size=20)),
    st.tuples(st.just("repeat"), _PLACES, st.binary(min_size=1, max_size=40)),
    st.tuples(st.just("cut"), _PLACES, st.just(b"")),
)


@st.composite
def damaged_pictures(draw: st.DrawFn) -> bytes:
    """A real picture with a few bytes changed."""
    data = bytearray(draw(st.sampled_from(pictures())))
    for what, place, value in draw(st.lists(_EDITS, min_size=1, max_size=8)):
        _edit(data, what, place % max(1, len(data)), value)
    return bytes(data)


def _edit(data: bytearray, what: str, at: int, value: bytes) -> None:
    end = at + len(value)
    if what == "set":
        data[at:end] = value
    elif what == "insert":
        data[at:at] = value
    elif what == "delete":
        del data[at:end]
    elif what == "repeat":
        data[at:at] = bytes(data[at:end]) * 50
    else:
        del data[at:]


@st.composite
def png_headers(draw: st.DrawFn) -> bytes:
    """PNGs with correct checksums and an arbitrary header."""
    sides = st.one_of(st.integers(0, 40), st.sampled_from([0, 2**16, 2**31 - 1, 2**31, 2**32 - 1]))
    depth = draw(st.sampled_from([1, 2, 4, 8, 16, 0, 3, 255]))
    kind = draw(st.sampled_from([0, 2, 3, 4, 6, 1, 255]))
    header = struct.pack(">IIBBBBB", draw(sides), draw(sides), depth, kind, 0, 0, draw(st.sampled_from([0, 1, 2])))
    names = st.sampled_from([b"PLTE", b"tRNS", b"iCCP", b"zTXt", b"iTXt", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"gAMA"])
    extra = draw(st.lists(st.tuples(names, st.binary(max_size=40)), max_size=4))
    rows = zlib.compress(draw(st.binary(max_size=400)) * draw(st.sampled_from([1, 100])))
    chunks = [(b"IHDR", header), *extra, (b"IDAT", rows), (b"IEND", b"")]
    return MAGIC[0] + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def any_bytes() -> st.SearchStrategy[bytes]:
    """Damaged pictures, arbitrary headers, and noise after a format's first bytes."""
    noise = st.builds(lambda magic, rest: magic + rest, st.sampled_from((b"", *MAGIC)), st.binary(max_size=300))
    return st.one_of(damaged_pictures(), damaged_pictures(), png_headers(), noise)
