"""PNG and TIFF files with 16 bits a channel, written by hand: Pillow writes only grey ones."""

from __future__ import annotations

import struct
import zlib

import numpy as np

PNG_COLOUR_TYPE = {1: 0, 2: 4, 3: 2, 4: 6}
# Interpretation of a TIFF's colours; and of its fourth sample: 0 unspecified, 1 premultiplied alpha, 2 alpha.
RGB, CMYK = 2, 5


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


def _entry(order: str, tag: int, kind: int, number: int, value: int) -> bytes:
    short = kind == 3 and number == 1
    return struct.pack(f"{order}HHI", tag, kind, number) + struct.pack(
        f"{order}HH" if short else f"{order}I", *((value, 0) if short else (value,))
    )
