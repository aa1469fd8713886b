"""Tally: how many rows have which size, and why others have none. Its memory does not grow with the rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from jobs.errors import RenderError
from jobs.picture_size import target_size


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
    """Rows without a size for one kind of reason, and what is wrong with the first of them."""

    rows: int
    first_row: int
    sentence: str


@dataclass
class Tally:
    """Counts of rows and pictures by size, and of rows without a size by the error's kind (jobs/errors.py)."""

    rows: Counter[Size] = field(default_factory=Counter)
    pictures: Counter[Size] = field(default_factory=Counter)
    unread: dict[str, Unread] = field(default_factory=dict)

    def add(self, width: int, height: int, wanted: Mapping[Wanted, int], *, first_row: int) -> None:
        """Count rows whose picture has this size, upright, in pixels: how many want what."""
        for want, rows in wanted.items():
            try:
                size = Size(*target_size(height, width, want.resolution))
            except RenderError as error:
                self.miss(error, rows, first_row=first_row)
            else:
                self.rows[size] += rows
                self.pictures[size] += rows * want.samples

    def miss(self, error: RenderError, rows: int, *, first_row: int) -> None:
        """Count rows whose size is not known."""
        known = self.unread.get(error.kind)
        if known is None or first_row < known.first_row:
            known = Unread(known.rows if known else 0, first_row, str(error))
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
