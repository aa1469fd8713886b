"""PNG and TIFF files with 16 bits a channel, and grey TIFFs of any kind, written by hand: Pillow writes a few only."""

from __future__ import annotations

import struct
import zlib

import numpy as np

PNG_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
# Interpretation of a TIFF's colours; and of its fourth sample: 0 unspecified, 1 premultiplied alpha, 2 alpha.
ZERO_IS_WHITE, ZERO_IS_BLACK, RGB, CMYK = 0, 1, 2, 5
SAMPLE_FORMATS = {"u": 1, "i": 2, "f": 3}  # of a TIFF, by numpy's letter


def png16(values: np.ndarray, *chunks: bytes) -> bytes:
    """uint16 [H, W, C]: grey, grey and alpha, RGB or RGBA."""
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, PNG_COLOUR_TYPE[channels], 0, 0, 0)
    parts = [chunk(b"IHDR", header), *chunks, chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def tiff16(
    values: np.ndarray,
    *,
    order: str = "<",
    compressed: bool = False,
    planes: bool = False,
    interpretation: int = RGB,
    extra_sample: int | None = None,
) -> bytes:
    """uint16 [H, W, 3 or 4], in one strip (or one a plane), of Intel's ('<') or Motorola's ('>') byte order."""
    height, width, channels = values.shape
    samples = values.astype(f"{order}u2")
    strips = [samples[:, :, band].tobytes() for band in range(channels)] if planes else [samples.tobytes()]
    strips = [zlib.compress(strip) for strip in strips] if compressed else strips
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    at = 8 + len(bits)
    offsets = [at + sum(map(len, strips[:number])) for number in range(len(strips))]
    end = at + sum(map(len, strips))
    tables = [struct.pack(f"{order}{len(strips)}I", *numbers) for numbers in (offsets, map(len, strips))]
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, channels, 8), (259, 3, 1, 8 if compressed else 1),
        (262, 3, 1, interpretation),
        (273, 4, len(strips), end if planes else offsets[0]), (277, 3, 1, channels), (278, 4, 1, height),
        (279, 4, len(strips), end + len(tables[0]) if planes else len(strips[0])), (284, 3, 1, 2 if planes else 1),
    ]  # fmt: skip
    tags += [] if extra_sample is None else [(338, 3, 1, extra_sample)]
    entries = b"".join(_entry(order, *tag) for tag in tags)
    directory = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    body = bits + b"".join(strips) + (b"".join(tables) if planes else b"")
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", 8 + len(body)) + body + directory


def grey_tiff(
    values: np.ndarray,
    *,
    order: str = "<",
    compressed: bool = False,
    interpretation: int | None = ZERO_IS_BLACK,
    extra_samples: int = 0,
) -> bytes:
    """[H, W] of any number type, or [H, W * samples] with extra samples, in one strip; bits and kind by that type."""
    samples = 1 + extra_samples
    height, width = values.shape[0], values.shape[1] // samples
    body = values.astype(f"{order}{values.dtype.str[1:]}").tobytes()
    body = zlib.compress(body) if compressed else body
    bits = values.dtype.itemsize * 8
    kind, end = SAMPLE_FORMATS[values.dtype.kind], 8 + len(body)
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, bits), (259, 3, 1, 8 if compressed else 1),
        (262, 3, 1, interpretation), (273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, len(body)),
        (338, 3, 1, 0 if extra_samples else None), (339, 3, 1, kind),
    ]  # fmt: skip
    entries = [_entry(order, tag, form, count, value) for tag, form, count, value in tags if value is not None]
    directory = struct.pack(f"{order}H", len(entries)) + b"".join(entries) + bytes(4)
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return mark + struct.pack(f"{order}I", end) + body + directory


def _entry(order: str, tag: int, kind: int, number: int, value: int) -> bytes:
    short = kind == 3 and number == 1
    return struct.pack(f"{order}HHI", tag, kind, number) + struct.pack(
        f"{order}HH" if short else f"{order}I", *((value, 0) if short else (value,))
    )
