"""What an AVIF or HEIC makes its decoder do, judged by its boxes before anything is decoded.

Such a file may say that it is small and hold a picture that is large, show a corner of one, put one together from
thousands of copies of another, or hide a film in a still. The decoders' own limits are thousands of megapixels.
Sources: ISO/IEC 23008-12 (items and their properties), 14496-12 (boxes), 23000-22 (derived pictures).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from jobs.errors import NotAnImage, SourceTooLarge
from worker.image.bitstreams import Coded, Damaged, av1, hevc, hevc_configuration
from worker.image.boxes import by_kind
from worker.image.heif_items import Item, Items, read_items
from worker.image.heif_tracks import first_frames

AVIF_BRANDS = frozenset({b"avif", b"avis"})
HEIC_BRANDS = frozenset({b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"})
CONTAINER_BRANDS = frozenset({b"mif1", b"mif2", b"msf1", b"miaf"})  # of either kind

CODED = frozenset({b"av01", b"hvc1", b"hev1"})
DERIVED = frozenset({b"grid", b"iovl", b"iden"})
DEEPEST = 4  # derived from what is derived
PADDING = 64  # pixels by which a coded side may exceed what the file says: codecs have blocks of up to so many
MOST_FRAMES = 32  # that are decoded for one; a still has one, and one with layers four
# Pixels that are decoded for one of the picture, tiles and alpha included. A grid with alpha takes four.
MOST_WORK = 6
MOST_UNITS = 50_000  # slices and tiles of all pictures that are decoded for one
SMALL = 2**20  # pixels that are worth no refusal: tiles have a fixed size, however small the picture is


def kind_of(data: bytes) -> str | None:
    """`AVIF` or `HEIC`, by the brands that the file begins with; None for any other file."""
    if data[4:8] != b"ftyp":
        return None
    end = min(max(16, int.from_bytes(data[:4])), 1024)
    brands = {data[8:12]} | {data[at : at + 4] for at in range(16, end, 4)}
    if not brands & (AVIF_BRANDS | HEIC_BRANDS | CONTAINER_BRANDS):
        return None
    return "AVIF" if brands & AVIF_BRANDS else "HEIC"


def check_heif(data: bytes, kind: str, *, max_pixels: int) -> int:
    """How many pixels the largest picture has that is decoded for this one; `kind` is what `kind_of` says.

    Raises:
        SourceTooLarge: that one has more than `max_pixels`.
        NotAnImage: decoding the file takes far more than its picture does, or its boxes are damaged.
    """
    try:
        return _Work(memoryview(data), kind, max_pixels).largest()
    except Damaged as error:
        raise NotAnImage(f"the picture is truncated or damaged: its {kind} boxes cannot be read: {error}") from error


@dataclass
class _Work:
    data: memoryview
    kind: str
    max_pixels: int
    _largest: int = 0
    _units: int = 0
    _done: dict[int, int] = field(default_factory=dict)  # what it takes to decode an item, in pixels

    def largest(self) -> int:
        frames = list(first_frames(self.data))
        work = sum(self._noted(*frame) for frame in frames)
        if not frames and self._items.primary is None:
            raise Damaged("there is no picture in them")
        if self._items.primary is not None:
            wanted = self._items.with_alpha(self._items.primary)
            work += sum(self._item(id_, depth=0) for id_ in wanted)
        if work > MOST_WORK * max(self.max_pixels, SMALL):
            raise NotAnImage(
                f"the {self.kind} is put together from parts with {work:,} pixels in all, where its own would do: "
                "save it again"
            )
        return self._largest

    @cached_property
    def _items(self) -> Items:
        meta = by_kind(self.data, is_file=True).get(b"meta")
        return Items() if meta is None else read_items(meta, self.data)

    def _item(self, id_: int, *, depth: int) -> int:
        if id_ in self._done:
            return self._done[id_]
        item = self._items.by_id.get(id_)
        if item is None:
            raise Damaged("a picture in it is missing")
        if depth > DEEPEST:
            raise Damaged("pictures are derived from each other without end")
        if item.kind in CODED:
            work = self._noted(item.width, item.height, _coded(item, self._items.data_of(item)))
        elif item.kind in DERIVED:
            canvas = _canvas(item.kind, self._items.data_of(item))
            work = self._noted(item.width, item.height, canvas) if item.kind != b"iden" else 0
            work += sum(self._item(part, depth=depth + 1) for part in self._items.parts_of(id_))
        else:
            name = item.kind.decode("ascii", "replace")
            raise NotAnImage(f"this kind of {self.kind} ({name!r}) is not read; save it as JPEG or PNG")
        self._done[id_] = work
        return work

    def _noted(self, width: int, height: int, coded: Coded) -> int:
        """The pixels of one picture, whose size the file and its own header say."""
        if coded.width > width + PADDING or coded.height > height + PADDING:
            raise NotAnImage(
                f"the {self.kind} says {width}x{height} pixels, and a picture in it {coded.width}x{coded.height}: "
                "save it again"
            )
        if coded.frames > MOST_FRAMES:
            raise NotAnImage(f"the {self.kind} has {coded.frames:,} frames in one picture: save it again")
        self._units += coded.units
        if self._units > MOST_UNITS:
            raise NotAnImage(f"the {self.kind} has more than {MOST_UNITS:,} parts: save it again")
        pixels = width * height
        if pixels > max(self.max_pixels, SMALL):
            raise SourceTooLarge(
                f"the {self.kind} has a picture of {width}x{height} = {pixels:,} pixels in it; {self.max_pixels:,} are "
                "allowed (RENDER_MAX_PIXELS)"
            )
        self._largest = max(self._largest, pixels)
        return pixels * max(1, coded.frames)


def _coded(item: Item, data: memoryview) -> Coded:
    if item.kind == b"av01":
        return av1(data) + av1(item.properties.get(b"av1C", data[:0])[4:])
    coded, length_bytes = hevc_configuration(item.properties.get(b"hvcC", data[:0]))
    return coded + hevc(data, length_bytes=length_bytes)


def _canvas(kind: bytes, data: memoryview) -> Coded:
    """The size that a derived picture says: of a grid behind its rows and columns, of an overlay behind a colour."""
    if kind == b"iden":
        return Coded()
    if len(data) < 2:
        raise Damaged("a derived picture ends early")
    at, size = (4 if kind == b"grid" else 10), (4 if data[1] & 1 else 2)
    if len(data) < at + 2 * size:
        raise Damaged("a derived picture ends early")
    return Coded(int.from_bytes(data[at : at + size]), int.from_bytes(data[at + size : at + 2 * size]))
