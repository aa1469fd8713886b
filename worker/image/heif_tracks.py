"""The first frame of each track of an AVIF that moves: its size as the file says, and as its own header does."""

from __future__ import annotations

from collections.abc import Iterator

from worker.image.bitstreams import Coded, Damaged, av1
from worker.image.boxes import Fields, boxes_of, by_kind

WAY = (b"mdia", b"minf", b"stbl")
MOST_TRACKS = 8  # colours and alpha are two
SIZE_AT, BOXES_AT = 24, 78  # in a visual sample entry


def first_frames(data: memoryview) -> Iterator[tuple[int, int, Coded]]:
    """Width and height in pixels, and what AV1 says, of every track of pictures.

    Raises:
        Damaged: the boxes are not what they should be.
    """
    movie = by_kind(data, is_file=True).get(b"moov")
    tracks = [box.body for box in boxes_of(movie) if box.kind == b"trak"] if movie is not None else []
    if len(tracks) > MOST_TRACKS:
        raise Damaged(f"it has more than {MOST_TRACKS} tracks")
    for track in tracks:
        if (table := _table(track)) is not None:
            yield from _first_frame(by_kind(table), data)


def _table(track: memoryview) -> memoryview | None:
    inner: memoryview | None = track
    for kind in WAY:
        inner = None if inner is None else by_kind(inner).get(kind)
    return inner


def _first_frame(table: dict[bytes, memoryview], data: memoryview) -> Iterator[tuple[int, int, Coded]]:
    descriptions = table.get(b"stsd", memoryview(b""))[8:]
    for entry in boxes_of(descriptions):
        if entry.kind != b"av01":
            continue
        if len(entry.body) < BOXES_AT:
            raise Damaged("a track's description ends early")
        width, height = (int.from_bytes(entry.body[at : at + 2]) for at in (SIZE_AT, SIZE_AT + 2))
        configuration = by_kind(entry.body[BOXES_AT:]).get(b"av1C", memoryview(b""))
        yield width, height, av1(_first_sample(table, data)) + av1(configuration[4:])


def _first_sample(table: dict[bytes, memoryview], data: memoryview) -> memoryview:
    sizes = Fields(table.get(b"stsz", memoryview(b"")))
    sizes.version()
    size, number = sizes.number(4), sizes.number(4)
    if not number:
        return data[:0]
    size = size or sizes.number(4)
    kind, width = (b"co64", 8) if b"co64" in table else (b"stco", 4)
    chunks = Fields(table.get(kind, memoryview(b"")))
    chunks.version()
    if not chunks.number(4):
        return data[:0]
    offset = chunks.number(width)
    return data[offset : offset + size]
