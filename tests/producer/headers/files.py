"""Pictures for tests of headers, in all formats, and what a worker makes of them."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image

from jobs.storage.part import Part
from producer.headers.header import upright_size
from producer.headers.parts import Parts
from worker.image.decode import decode_image

XMP = b'<x:xmpmeta xmlns:tiff="http://ns.adobe.com/tiff/1.0/"><a tiff:Orientation="%d"/></x:xmpmeta>'


def saved(format: str, size: tuple[int, int] = (70, 33), *, orientation: int | None = None, **options: Any) -> bytes:
    """A picture of one colour, as Pillow writes it."""
    if orientation is not None:
        exif = Image.Exif()
        exif[274] = orientation
        options["exif"] = exif
    file = io.BytesIO()
    Image.new("RGB", size, (9, 99, 199)).save(file, format, **options)
    return file.getvalue()


class Reads:
    """A file in memory that notes what was read of it. `knows_total`: as most hosts do."""

    def __init__(self, data: bytes, *, knows_total: bool = True) -> None:
        self.data = data
        self.knows_total = knows_total
        self.asked: list[tuple[int, int]] = []

    def read(self, start: int, size: int) -> Part:
        self.asked.append((start, size))
        return Part(self.data[start : start + size], len(self.data) if self.knows_total else None)


def size_of(data: bytes, *, knows_total: bool = True) -> tuple[int, int]:
    """Width and height from the header."""
    return upright_size(Parts(Reads(data, knows_total=knows_total).read))


def workers_size(data: bytes) -> tuple[int, int]:
    """Width and height that a worker decodes."""
    height, width = decode_image(data, max_pixels=50_000_000).pixels.shape[:2]
    return width, height


def png_chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def exif_of(orientation: int) -> bytes:
    """EXIF with an orientation and nothing else, without the words `Exif` in front."""
    return b"II*\0" + struct.pack("<IHHHIII", 8, 1, 274, 3, 1, orientation, 0)


def box(name: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", 8 + len(body)) + name + body


def heif(brand: bytes, size: tuple[int, int], *properties: bytes, item: int = 2, wide: bool = False) -> bytes:
    """A file of boxes whose primary item has these properties, beside another item of another size."""
    other = box(b"ispe", b"\0" * 4, struct.pack(">II", 8, 8))
    mine = (box(b"ispe", b"\0" * 4, struct.pack(">II", *size)), *properties)
    numbers = range(2, 2 + len(mine))
    if wide:  # item numbers of 32 bits, property numbers of 15
        entries = struct.pack(">IBH", item + 1, 1, 1) + struct.pack(">IB", item, len(mine))
        association = b"\1\0\0\1" + struct.pack(">I", 2) + entries + b"".join(struct.pack(">H", n) for n in numbers)
        primary = box(b"pitm", b"\1\0\0\0", struct.pack(">I", item))
    else:
        entries = struct.pack(">HBB", item + 1, 1, 0x81) + struct.pack(">HB", item, len(mine))
        association = b"\0" * 4 + struct.pack(">I", 2) + entries + bytes(0x80 | n for n in numbers)
        primary = box(b"pitm", b"\0" * 4, struct.pack(">H", item))
    meta = box(b"iprp", box(b"ipco", other, *mine), box(b"ipma", association))
    return (
        box(b"ftyp", brand, b"\0" * 4, b"mif1miaf") + box(b"free", b"x" * 50) + box(b"meta", b"\0" * 4, primary, meta)
    )
