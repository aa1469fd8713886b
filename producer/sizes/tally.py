"""Tally: how many rows have which size, and why some have no size. Its memory does not grow with the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from jobs.errors import RenderError
from jobs.picture_size import target_size
from producer.console import place


class Size(NamedTuple):
    """Height and width in pixels, as rendered."""

    height: int
    width: int

    @property
    def text(self) -> str:
        """`HEIGHTxWIDTH`, as `engines build --shape` reads it."""
        return f"{self.height}x{self.width}"


class Wanted(NamedTuple):
    """What a row wants of its picture: the short side in pixels, and how many samples."""

    resolution: int
    samples: int


class Unread(NamedTuple):
    """Rows without a size for one kind of reason; the first of them, its picture for people, and what is wrong."""

    rows: int
    first_row: int
    picture: str
    sentence: str


@dataclass
class Picture:
    """A picture, and how many rows want what of it."""

    uri: str
    first_row: int
    wanted: Counter[Wanted] = field(default_factory=Counter)


@dataclass
class Tally:
    """Counts of rows and pictures by size, and of rows without a size by the error's kind (jobs/errors.py)."""

    rows: Counter[Size] = field(default_factory=Counter)
    pictures: Counter[Size] = field(default_factory=Counter)
    unread: dict[str, Unread] = field(default_factory=dict)

    def add(self, picture: Picture, width: int, height: int) -> None:
        """Count the rows of a picture of this size, upright, in pixels."""
        for want, rows in picture.wanted.items():
            try:
                size = Size(*target_size(height, width, want.resolution))
            except RenderError as error:
                self._miss(error, picture, rows)
            else:
                self.rows[size] += rows
                self.pictures[size] += rows * want.samples

    def miss(self, picture: Picture, error: RenderError) -> None:
        """Count the rows of a picture whose size is not known."""
        self._miss(error, picture, picture.wanted.total())

    def _miss(self, error: RenderError, picture: Picture, rows: int) -> None:
        known = self.unread.get(error.kind)
        if known is None or picture.first_row < known.first_row:
            known = Unread(known.rows if known else 0, picture.first_row, place(picture.uri), str(error))
        self.unread[error.kind] = known._replace(rows=known.rows + rows)

    @property
    def unread_rows(self) -> int:
        """Rows without a size."""
        return sum(each.rows for each in self.unread.values())

    def by_number(self) -> list[Size]:
        """All sizes, those of the most pictures first."""
        return sorted(self.pictures, key=lambda size: (-self.pictures[size], size))

    def covering(self, share: float) -> list[Size]:
        """The fewest sizes that this share of the pictures (0 to 1) has, those of the most pictures first."""
        wanted, chosen, number = share * self.pictures.total(), list[Size](), 0
        for size in self.by_number():
            if chosen and number >= wanted:
                break
            chosen.append(size)
            number += self.pictures[size]
        return chosen

    def share_of(self, sizes: Iterable[Size]) -> float:
        """The share of the pictures that have one of these sizes."""
        return sum(self.pictures[size] for size in sizes) / (self.pictures.total() or 1)
