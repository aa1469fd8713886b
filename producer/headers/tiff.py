"""TIFF and BigTIFF: the first directory, wherever in the file it stands."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Self

from jobs.errors import NotAnImage
from producer.headers.parts import Parts
from producer.headers.raw_header import ON_ITS_SIDE, RawHeader

TIFF_BEGIN = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")  # the middle two are wrong, and read
SUBFILE, SUB_DIRECTORIES, WIDTH, HEIGHT, ORIENTATION, XMP = 254, 330, 256, 257, 274, 700
# What Canon's raw files have behind the first eight bytes: CR2, and the `.TIF` of the first 1D.
CANON_RAW = (b"CR\2\0", b"\xba\xb0\xac\xbb")
SMALL_COPY = 1  # a bit of SUBFILE: a smaller version of another picture in the file
# Of a value's kind: SHORT, LONG, the signed ones, LONG8. Pillow, which turns a worker's pictures, takes BYTE for text.
NUMBERS = {3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 16: "Q"}
BYTES = (1, 7)  # kinds of a text of bytes
LONGEST_XMP = 2**20
MOST_ENTRIES = 2**12  # of a directory; 30 are usual


def tiff_header(parts: Parts) -> RawHeader:
    """Width and height of the first page, and its orientation, which its XMP may say as well."""
    directory = _Directory.of(parts)
    is_small_copy = bool((directory.number(SUBFILE) or 0) & SMALL_COPY) and directory.has_others
    if is_small_copy or parts.upto(8, 4) in CANON_RAW:
        raise NotAnImage(
            "the TIFF begins with a small copy of its picture, as a camera's raw file does (DNG, NEF, ARW, CR2): "
            "export the picture as JPEG, PNG or TIFF"
        )
    width, height = directory.number(WIDTH), directory.number(HEIGHT)
    if width is None or height is None:
        raise NotAnImage("the TIFF is damaged: its first page has no size")
    orientation = directory.number(ORIENTATION)
    if orientation is not None:
        return RawHeader(width, height, turned=orientation in ON_ITS_SIDE)
    return RawHeader(width, height, xmp=directory.text(XMP))


@dataclass(frozen=True)
class _Directory:
    """Tag -> kind, number of values, and the bytes that hold them or say where they are.

    `has_others`: the file has more directories than this one.
    """

    parts: Parts
    order: str
    is_big: bool
    entries: dict[int, tuple[int, int, bytes]]
    has_others: bool

    @classmethod
    def of(cls, parts: Parts) -> Self:
        begin = parts.need(0, 8)
        order, is_big = (">" if begin[:1] == b"M" else "<"), b"+" in begin[2:4]
        head, entry = ("Q", "HHQ8s") if is_big else ("H", "HHI4s")
        (at,) = struct.unpack(f"{order}Q", parts.need(8, 8)) if is_big else struct.unpack(f"{order}I", begin[4:8])
        (count,) = struct.unpack(order + head, parts.need(at, struct.calcsize(head)))
        if count > MOST_ENTRIES:
            raise NotAnImage(f"the TIFF has {count:,} entries in a directory, where 30 are usual: save it again")
        size = struct.calcsize(order + entry)
        table = parts.upto(at + struct.calcsize(head), size * count + (8 if is_big else 4))
        table, following = table[: size * count], table[size * count :]  # where the next directory is; 0: nowhere
        found: dict[int, tuple[int, int, bytes]] = {}
        for tag, kind, number, value in struct.iter_unpack(order + entry, table[: len(table) // size * size]):
            found.setdefault(tag, (kind, number, value))
        return cls(parts, order, is_big, found, any(following) or SUB_DIRECTORIES in found)

    def number(self, tag: int) -> int | None:
        """A tag's only number."""
        kind, count, value = self.entries.get(tag, (0, 0, b""))
        if count != 1 or kind not in NUMBERS:
            return None
        size = struct.calcsize(NUMBERS[kind])
        if size > len(value):  # a LONG8 of a plain TIFF
            value = self.parts.need(self._place(value), size)
        return int(struct.unpack(self.order + NUMBERS[kind], value[:size])[0])

    def text(self, tag: int) -> bytes | None:
        """A tag's bytes."""
        kind, count, value = self.entries.get(tag, (0, 0, b""))
        if kind not in BYTES or count > LONGEST_XMP:
            return None
        return value[:count] if count <= len(value) else self.parts.upto(self._place(value), count)

    def _place(self, value: bytes) -> int:
        return int(struct.unpack(f"{self.order}{'Q' if self.is_big else 'I'}", value)[0])
