"""What a TIFF's directories say, without decoding anything: how many pages there are, and what the first one holds.

Pillow sets up each page that it counts, and then refuses a good first page for the sake of an odd later one. And of a
TIFF that it cannot read, it only says: not a picture. Before it looks at the picture's size, it makes an object
of 300 bytes for each strip, in 10 microseconds.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from jobs.errors import NotAnImage

TIFF_BEGIN = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0", b"II+\0", b"MM\0+")  # the middle two are wrong, and read
NUMBER_FORMATS = {1: "B", 3: "H", 4: "I", 16: "Q"}  # of a value's kind: BYTE, SHORT, LONG, LONG8
MOST_VALUES = 8  # of a tag: one for each sample of a pixel

MOST_STRIPS = 100_000  # also of tiles, colours and other values that Pillow goes through one by one

# What Canon's raw files have behind the first eight bytes: CR2, and the `.TIF` of the first 1D.
CANON_RAW = (b"CR\2\0", b"\xba\xb0\xac\xbb")

OUTSIDE = (struct.error, OverflowError)  # a place beyond the file's end, or beyond any file's

SUBFILE, SUB_DIRECTORIES = 254, 330
SMALL_COPY = 1  # a bit of SUBFILE: a smaller version of another picture in the file
BITS, COMPRESSION, INTERPRETATION, SAMPLES, FORMAT = 258, 259, 262, 277, 339
TILE_WIDTH, TILE_HEIGHT = 322, 323
GONE_THROUGH = {BITS: "bit depths", 273: "strips", 320: "colours", 324: "tiles", 338: "extra samples",
                FORMAT: "sample formats"}  # fmt: skip
SAMPLE_FORMATS = {1: "unsigned integers", 2: "signed integers", 3: "floating point", 5: "complex integers",
                  6: "complex numbers"}  # fmt: skip


@dataclass(frozen=True)
class TiffDirectory:
    """The first page's numbers by their tags, and the number of pages, counted up to a limit."""

    tags: Mapping[int, tuple[int, ...]]
    pages: int
    is_whole: bool = True  # no value is beyond the file's end

    @classmethod
    def of(cls, data: bytes, *, limit: int) -> Self | None:
        """None where the first directory cannot be read.

        Raises:
            NotAnImage: it has more than MOST_STRIPS strips, or is the small copy of another picture.
        """
        layout = _Layout(data, ">" if data[:1] == b"M" else "<", is_big=b"+" in data[2:4])
        try:
            at = layout.first()
            entries = layout.entries(at)
        except OUTSIDE:
            return None
        for tag, _, count in entries:
            if tag in GONE_THROUGH and count > MOST_STRIPS:
                raise NotAnImage(f"the TIFF has {count:,} {GONE_THROUGH[tag]}; {MOST_STRIPS:,} are read: save it again")
        values = {tag: values for tag, values, _ in reversed(entries) if values}  # of two with a tag, the first is read
        directory = cls(values, layout.count(at, limit), all(values is not None for _, values, _ in entries))
        has_others = directory.pages > 1 or any(tag == SUB_DIRECTORIES for tag, _, _ in entries)
        is_small_copy = bool(directory.first(SUBFILE, 0) & SMALL_COPY) and has_others
        if is_small_copy or data[8:12] in CANON_RAW:
            raise NotAnImage(
                "the TIFF begins with a small copy of its picture, as a camera's raw file does (DNG, NEF, ARW, CR2): "
                "export the picture as JPEG, PNG or TIFF"
            )
        return directory

    def first(self, tag: int, default: int) -> int:
        """A tag's first number."""
        return next(iter(self.tags.get(tag, ())), default)

    @property
    def compression(self) -> int:
        """TIFF's number for it."""
        return self.first(COMPRESSION, 1)

    @property
    def tile_pixels(self) -> int:
        """Pixels of one tile; 0 if the page has no tiles. A decoder needs memory for a whole one."""
        return self.first(TILE_WIDTH, 0) * self.first(TILE_HEIGHT, 0)

    def __str__(self) -> str:
        """`3 samples of 32 bits a pixel, floating point, compression 1, colours 2`: the last two by TIFF's numbers."""
        samples, bits = self.first(SAMPLES, 1), self.first(BITS, 1)
        kind = SAMPLE_FORMATS.get(self.first(FORMAT, 1), "of an unknown kind")
        return (
            f"{samples} sample{'s' * (samples != 1)} of {bits} bits a pixel, {kind}, "
            f"compression {self.compression}, colours {self.first(INTERPRETATION, 0)}"
        )


@dataclass(frozen=True)
class _Layout:
    """Where things are in a TIFF, or in a BigTIFF, whose counts and offsets have 8 bytes. Raises one of OUTSIDE."""

    data: bytes
    order: str
    is_big: bool

    def first(self) -> int:
        return self._number("Q", 8) if self.is_big else self._number("I", 4)

    def entries(self, at: int) -> list[tuple[int, tuple[int, ...] | None, int]]:
        """Tag, values and number of values of each entry.

        Texts and long tables have no values here. Values beyond the file's end are None, and so is the rest.
        """
        begin, size, count = self._entries(at)
        entries: list[tuple[int, tuple[int, ...] | None, int]] = []
        for number in range(count):
            try:
                entries.append(self._entry(begin + size * number))
            except OUTSIDE:  # Pillow takes what there is
                return [*entries, (0, None, 0)]
        return entries

    def count(self, at: int, limit: int) -> int:
        """Directories from this one on. A chain that is cut or leads back to itself ends there."""
        seen: set[int] = set()
        while at and at not in seen and len(seen) < limit:
            try:
                begin, size, count = self._entries(at)
                following = self._number("Q" if self.is_big else "I", begin + size * count)
            except OUTSIDE:
                break
            seen.add(at)
            at = following
        return max(1, len(seen))

    def _entries(self, at: int) -> tuple[int, int, int]:
        """Where the entries begin, the bytes of each, and their number."""
        if self.is_big:
            return at + 8, 20, min(self._number("Q", at), 2**16)
        return at + 2, 12, self._number("H", at)

    def _entry(self, at: int) -> tuple[int, tuple[int, ...] | None, int]:
        tag, kind, count = struct.unpack_from(f"{self.order}HH{'Q' if self.is_big else 'I'}", self.data, at)
        form, place = NUMBER_FORMATS.get(kind), at + (12 if self.is_big else 8)
        if form is None or not 0 < count <= MOST_VALUES:
            return tag, (), count
        layout = f"{self.order}{count}{form}"
        try:
            if struct.calcsize(layout) > (8 if self.is_big else 4):
                place = self._number("Q" if self.is_big else "I", place)
            return tag, struct.unpack_from(layout, self.data, place), count
        except OUTSIDE:
            return tag, None, count

    def _number(self, form: str, at: int) -> int:
        (number,) = struct.unpack_from(self.order + form, self.data, at)
        return int(number)
