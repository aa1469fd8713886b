"""The items of an AVIF or HEIC: pictures, what they are made of, and where their bytes are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.image.bitstreams import Damaged
from worker.image.boxes import Box, Fields, boxes_of, by_kind

MOST_ITEMS = 10_000
MOST_LINKS = 100_000  # between items, from items to properties, and from items to pieces of the file
ALPHA = (b"aux:alpha", b"auxiliary:alpha", b"hevc:2015:auxid:1")  # as `auxC` says it
IN_FILE, IN_META = 0, 1  # where an item's bytes are
Extent = tuple[int, int]  # offset and length


@dataclass(frozen=True)
class Item:
    """One picture: its type, its properties by type, and its bytes' places."""

    kind: bytes
    properties: Mapping[bytes, memoryview]
    place: int = IN_FILE
    extents: Sequence[Extent] = ()

    @property
    def width(self) -> int:
        """In pixels, as the file says."""
        return self._side(4)

    @property
    def height(self) -> int:
        """In pixels, as the file says."""
        return self._side(8)

    def _side(self, at: int) -> int:
        extents = self.properties.get(b"ispe")
        if extents is None or len(extents) < 12:
            raise Damaged("a picture in it has no size")
        return int.from_bytes(extents[at : at + 4])


@dataclass(frozen=True)
class Items:
    """All pictures of a file by id, and the one that is shown."""

    primary: int | None = None
    by_id: Mapping[int, Item] = field(default_factory=dict)
    references: Mapping[bytes, Mapping[int, Sequence[int]]] = field(default_factory=dict)
    file: memoryview = field(default_factory=lambda: memoryview(b""))
    idat: memoryview = field(default_factory=lambda: memoryview(b""))

    def parts_of(self, id_: int) -> Sequence[int]:
        """The items that one is derived from; one as often as it is used."""
        return self.references.get(b"dimg", {}).get(id_, ())

    def with_alpha(self, id_: int) -> list[int]:
        """The item, and those that hold its transparency or that of its parts."""
        masters = {id_, *self.parts_of(id_)}
        auxiliary = self.references.get(b"auxl", {})
        return [id_] + [
            other for other, of in auxiliary.items() if masters.intersection(of) and _is_alpha(self.by_id.get(other))
        ]

    def data_of(self, item: Item) -> memoryview:
        """The item's bytes."""
        source = self.idat if item.place == IN_META else self.file
        pieces = [source[offset : offset + length] for offset, length in item.extents]
        if sum(map(len, pieces)) > len(source):
            raise Damaged("pieces of the file are used again and again")
        return pieces[0] if len(pieces) == 1 else memoryview(b"".join(pieces))


def read_items(meta: memoryview, file: memoryview) -> Items:
    """The items in the body of a `meta` box.

    Raises:
        Damaged: the boxes are not what they should be.
    """
    boxes = by_kind(meta[4:])
    primary = boxes.get(b"pitm")
    if primary is None:
        return Items()
    idat = boxes.get(b"idat", memoryview(b""))
    kinds = _kinds(boxes[b"iinf"]) if b"iinf" in boxes else {}
    properties = _properties(boxes[b"iprp"]) if b"iprp" in boxes else {}
    places = _places(boxes[b"iloc"], file, idat) if b"iloc" in boxes else {}
    items = {id_: Item(kind, properties.get(id_, {}), *places.get(id_, (IN_FILE, ()))) for id_, kind in kinds.items()}
    references = _references(boxes[b"iref"]) if b"iref" in boxes else {}
    fields = Fields(primary)
    version, _ = fields.version()
    return Items(fields.number(4 if version else 2), items, references, file, idat)


def _kinds(body: memoryview) -> dict[int, bytes]:
    fields = Fields(body)
    version, _ = fields.version()
    fields.number(4 if version else 2)
    kinds: dict[int, bytes] = {}
    for box in boxes_of(fields.rest):
        entry = Fields(box.body)
        version, _ = entry.version()
        if version < 2:
            continue
        id_ = entry.number(2 if version == 2 else 4)
        entry.number(2)
        _new(id_, kinds)
        kinds[id_] = entry.raw(4)
    return kinds


def _references(body: memoryview) -> dict[bytes, dict[int, list[int]]]:
    fields = Fields(body)
    version, _ = fields.version()
    size = 4 if version else 2
    references: dict[bytes, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    links = 0
    for box in boxes_of(fields.rest):
        entry = Fields(box.body)
        id_, number = entry.number(size), entry.number(2)
        links = _limited(links + number, MOST_LINKS)
        references[box.kind][id_] += [entry.number(size) for _ in range(number)]
    return references


def _properties(body: memoryview) -> dict[int, dict[bytes, memoryview]]:
    """By item, its properties that say how large it is and how it is coded."""
    container = by_kind(body).get(b"ipco")
    shared: list[Box] = [] if container is None else list(boxes_of(container))
    properties: dict[int, dict[bytes, memoryview]] = defaultdict(dict)
    links = 0
    for box in boxes_of(body):
        if box.kind != b"ipma":
            continue
        fields = Fields(box.body)
        version, flags = fields.version()
        for _ in range(_limited(fields.number(4), MOST_ITEMS)):
            id_, number = fields.number(4 if version else 2), fields.number(1)
            links = _limited(links + number, MOST_LINKS)
            for _ in range(number):
                index = fields.number(2) & 0x7FFF if flags & 1 else fields.number(1) & 0x7F
                if 0 < index <= len(shared):
                    kind, value = shared[index - 1]
                    _note(properties[id_], kind, value)
    return properties


def _note(properties: dict[bytes, memoryview], kind: bytes, value: memoryview) -> None:
    """Keep a property. Two different ones of one type are refused: decoders would not agree on which one counts."""
    if kind in (b"ispe", b"av1C", b"hvcC") and properties.get(kind, value) != value:
        raise Damaged("a picture in it has two sizes or configurations")
    properties[kind] = value


def _places(body: memoryview, file: memoryview, idat: memoryview) -> dict[int, tuple[int, list[Extent]]]:
    fields = Fields(body)
    version, _ = fields.version()
    sizes = fields.number(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    places: dict[int, tuple[int, list[Extent]]] = {}
    links = 0
    for _ in range(_limited(fields.number(4 if version == 2 else 2), MOST_ITEMS)):
        id_ = fields.number(4 if version == 2 else 2)
        place = fields.number(2) & 15 if version else IN_FILE
        fields.number(2)
        base, number = fields.number(base_size), fields.number(2)
        links = _limited(links + number, MOST_LINKS)
        whole = len(idat if place == IN_META else file)
        extents = []
        for _ in range(number):
            fields.number(index_size)
            offset, length = base + fields.number(offset_size), fields.number(length_size)
            extents.append((offset, length or max(0, whole - offset)))
        _new(id_, places)
        places[id_] = (place, extents)
    return places


def _limited(number: int, most: int) -> int:
    if number > most:
        raise Damaged(f"it has more than {most:,} parts")
    return number


def _new(id_: int, known: Mapping[int, object]) -> None:
    if id_ in known:
        raise Damaged("two pictures in it have one number")


def _is_alpha(item: Item | None) -> bool:
    kind = bytes(item.properties.get(b"auxC", b"")) if item is not None else b""
    return any(name in kind for name in ALPHA)
