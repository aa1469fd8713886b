"""AVIF and HEIC: boxes in boxes (ISO/IEC 14496-12, 23008-12). The primary item's properties say its size and turns.

A HEIC is shown as libheif shows it: cropped by its clean aperture (`clap`), then turned by `irot`. libavif, with which
Pillow reads AVIF, does not crop. Neither format's EXIF turns anything.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from jobs.errors import NotAnImage
from producer.headers.parts import Parts
from producer.headers.raw_header import RawHeader

AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
CONTAINER_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})  # of either kind
LONGEST_BRANDS = 1024  # bytes of the first box
MOST_BOXES = 1000  # side by side
LONGEST_META = 2**20  # bytes; items of a grid are a few hundred, and take 10 to 20 bytes each
DAMAGED = "the picture is damaged: its boxes do not say its size"


class Box(NamedTuple):
    """A box's name, and where its content begins and ends."""

    name: bytes
    start: int
    end: int


def is_heif(begin: bytes) -> bool:
    """Whether a file begins as AVIF or HEIC; `begin` are its first LONGEST_BRANDS bytes."""
    return heif_kind(begin) is not None


def heif_kind(begin: bytes) -> str | None:
    """`AVIF` or `HEIC`, by the brands in a file's first LONGEST_BRANDS bytes; None for any other file."""
    brands = _brands(begin) if begin[4:8] == b"ftyp" else set()
    if not brands & (AVIF_BRANDS | HEIC_BRANDS | CONTAINER_BRANDS):
        return None
    return "AVIF" if brands & AVIF_BRANDS else "HEIC"


def heif_header(parts: Parts) -> RawHeader:
    """The size of the primary item."""
    is_avif = bool(_brands(parts.upto(0, LONGEST_BRANDS)) & AVIF_BRANDS)
    meta = _Meta.of(parts)
    try:
        return meta.header(crops=not is_avif)
    except (struct.error, IndexError) as error:  # a box that is too short for what it says
        raise NotAnImage(DAMAGED) from error


def _brands(begin: bytes) -> set[bytes]:
    end = max(16, int.from_bytes(begin[:4]))
    return {begin[8:12]} | {begin[at : at + 4] for at in range(16, min(end, len(begin)), 4)}


@dataclass(frozen=True)
class _Meta:
    """The box `meta`, whole: the first of its kind, wherever it stands."""

    data: bytes

    @classmethod
    def of(cls, parts: Parts) -> _Meta:
        at = 0
        for _ in range(MOST_BOXES):
            head = parts.upto(at, 16)
            if len(head) < 8:
                break
            length, name = struct.unpack(">I4s", head[:8])
            begin = 16 if length == 1 else 8
            if length == 1 and len(head) == 16:
                (length,) = struct.unpack(">Q", head[8:])
            if name == b"meta":
                if not begin < length <= LONGEST_META:
                    break
                return cls(parts.need(at + begin, length - begin)[4:])
            if length < begin:  # 0: up to the file's end
                break
            at += length
        raise NotAnImage(DAMAGED)

    def header(self, *, crops: bool) -> RawHeader:
        """Width and height after the crop, and whether it is turned by 90 or 270 degrees."""
        size, turned = None, False
        for box in self._properties():
            body = self.data[box.start : box.end]
            if box.name == b"ispe" and len(body) >= 12:
                size = struct.unpack(">II", body[4:12])
            elif box.name == b"clap" and len(body) >= 16 and size is not None and crops:
                size = _cropped(size, struct.unpack(">4I", body[:16]))
            elif box.name == b"irot" and body:
                turned = bool(body[0] & 1)
        if size is None:
            raise NotAnImage(DAMAGED)
        return RawHeader(size[0], size[1], turned=turned)

    def _properties(self) -> list[Box]:
        """The properties of the primary item, in the order in which they apply."""
        top = {box.name: box for box in self._boxes(0, len(self.data))}
        if b"pitm" not in top or b"iprp" not in top:
            raise NotAnImage(DAMAGED)
        primary = self._primary(top[b"pitm"])
        inside = list(self._boxes(top[b"iprp"].start, top[b"iprp"].end))
        properties = [each for box in inside if box.name == b"ipco" for each in self._boxes(box.start, box.end)]
        numbers = [number for box in inside if box.name == b"ipma" for number in self._associated(box, primary)]
        return [properties[number - 1] for number in numbers if 0 < number <= len(properties)]

    def _boxes(self, at: int, end: int) -> Iterator[Box]:
        for _ in range(MOST_BOXES):
            if at + 8 > end:
                return
            length, name = struct.unpack_from(">I4s", self.data, at)
            if length < 8 or at + length > end:
                return
            yield Box(name, at + 8, at + length)
            at += length

    def _primary(self, box: Box) -> int:
        size = 4 if self.data[box.start : box.start + 1] > b"\0" else 2
        return int.from_bytes(self.data[box.start + 4 : box.start + 4 + size])

    def _associated(self, box: Box, item: int) -> Iterator[int]:
        """The numbers of an item's properties, from 1."""
        version, flags = self.data[box.start], self.data[box.start + 3] & 1
        at, wide, size = box.start + 8, 4 if version else 2, 2 if flags else 1
        (entries,) = struct.unpack_from(">I", self.data, box.start + 4)
        for _ in range(entries):
            if at + wide + 1 > box.end:
                return
            named, count = int.from_bytes(self.data[at : at + wide]), self.data[at + wide]
            at += wide + 1
            if named == item:
                for place in range(at, min(at + count * size, box.end), size):
                    yield int.from_bytes(self.data[place : place + size]) & (0x7FFF if flags else 0x7F)
            at += count * size


def _cropped(size: tuple[int, int], clap: tuple[int, ...]) -> tuple[int, int]:
    """Width and height of the clean aperture, given as fractions; an invalid one changes nothing."""
    width_n, width_d, height_n, height_d = clap
    if not (width_d and height_d):
        return size
    width, height = round(width_n / width_d), round(height_n / height_d)
    return (width, height) if 0 < width <= size[0] and 0 < height <= size[1] else size
