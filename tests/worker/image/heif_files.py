"""AVIF and HEIC files put together box by box, from pictures that Pillow has coded, so that they can lie."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from worker.image.boxes import by_kind
from worker.image.heif_items import read_items


def number(value: int, size: int = 2) -> bytes:
    return value.to_bytes(size)


def box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return number(8 + len(body), 4) + kind + body


def full(kind: bytes, *parts: bytes, version: int = 0, flags: int = 0) -> bytes:
    return box(kind, number(version, 1), number(flags, 3), *parts)


def ispe(width: int, height: int) -> bytes:
    return full(b"ispe", number(width, 4), number(height, 4))


PIXI = full(b"pixi", b"\x03\x08\x08\x08")


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(5).integers(0, 255, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height))


def saved(image: Image.Image, format_: str = "AVIF", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


@dataclass
class Part:
    """One item: its type, its bytes, its properties as boxes, and the items that it is derived from."""

    kind: bytes
    data: bytes
    properties: Sequence[bytes]
    derived_from: Sequence[int] = ()
    alpha_of: int | None = None


@dataclass
class HeifFile:
    """Items by number from 1 on; the first is the one that is shown."""

    parts: Sequence[Part]
    brand: bytes = b"avif"
    more: Sequence[bytes] = ()  # boxes behind those of `meta`
    inside: Mapping[bytes, bytes] = field(
        default_factory=dict
    )  # boxes of `meta` that are other ones than they would be

    def __bytes__(self) -> bytes:
        begin = box(b"ftyp", self.brand, bytes(4), self.brand, b"mif1")
        size = len(begin) + len(self._meta(0)) + 8
        data = b"".join(part.data for part in self.parts)
        return begin + self._meta(size) + box(b"mdat", data) + b"".join(self.more)

    def _meta(self, at: int) -> bytes:
        handler = full(b"hdlr", bytes(4), b"pict", bytes(13))
        boxes = {
            b"hdlr": handler,
            b"pitm": full(b"pitm", number(1)),
            b"iloc": self._places(at),
            b"iinf": full(b"iinf", number(len(self.parts)), *map(self._entry, range(1, len(self.parts) + 1))),
            b"iref": self._references(),
            b"iprp": self._properties(),
        }
        return full(b"meta", *(boxes | dict(self.inside)).values())

    def _places(self, at: int) -> bytes:
        entries = []
        for id_, part in enumerate(self.parts, 1):
            entries.append(number(id_) + number(0) + number(1) + number(at, 4) + number(len(part.data), 4))
            at += len(part.data)
        return full(b"iloc", number(0x4400), number(len(entries)), *entries)

    def _entry(self, id_: int) -> bytes:
        return full(b"infe", number(id_), number(0), self.parts[id_ - 1].kind, b"\0", version=2)

    def _references(self) -> bytes:
        boxes = []
        for id_, part in enumerate(self.parts, 1):
            if part.derived_from:
                to = b"".join(map(number, part.derived_from))
                boxes.append(box(b"dimg", number(id_), number(len(part.derived_from)), to))
            if part.alpha_of:
                boxes.append(box(b"auxl", number(id_), number(1), number(part.alpha_of)))
        return full(b"iref", *boxes)

    def _properties(self) -> bytes:
        shared = [one for part in self.parts for one in part.properties]
        entries, first = [], 1
        for id_, part in enumerate(self.parts, 1):
            places = b"".join(number(place, 1) for place in range(first, first + len(part.properties)))
            entries.append(number(id_) + number(len(part.properties), 1) + places)
            first += len(part.properties)
        return box(b"iprp", box(b"ipco", *shared), full(b"ipma", number(len(entries), 4), *entries))


def still(image: Image.Image, *, says: tuple[int, int] | None = None, more: Sequence[bytes] = ()) -> Part:
    """A picture as an item; `says` is the size that the file gives."""
    return coded(saved(image, subsampling="4:2:0", speed=10), says=says or image.size, more=more)


def coded(file: bytes, *, says: tuple[int, int], more: Sequence[bytes] = ()) -> Part:
    """The main picture of an AVIF or HEIC as an item of another file."""
    items = read_items(by_kind(memoryview(file))[b"meta"], memoryview(file))
    assert items.primary is not None
    item = items.by_id[items.primary]
    name = b"av1C" if item.kind == b"av01" else b"hvcC"
    configuration = box(name, bytes(item.properties[name]))
    return Part(item.kind, bytes(items.data_of(item)), [ispe(*says), configuration, PIXI, *more])


def grid(rows: int, columns: int, size: tuple[int, int], *, says: tuple[int, int], of: Sequence[int]) -> Part:
    """A picture of rows and columns of others."""
    data = bytes((0, 0, rows - 1, columns - 1)) + number(size[0]) + number(size[1])
    return Part(b"grid", data, [ispe(*says), PIXI], of)
