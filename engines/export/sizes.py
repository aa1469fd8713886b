"""Which opsets and picture sizes exported graphs have, and at which sizes they are compared. No torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engines.spec import Profile

# torch's exporter knows attention from 14 on, and ends at 20. The TensorRT ports are exported with 18.
MIN_OPSET, OPSET, MAX_OPSET = 14, 18, 20
DYNAMIC = "dynamic"
# Without sizes of the user's: the one that the TensorRT ports are built for, and a small upright one.
USUAL = ((256, 384), (128, 64))
_TRACED = ((128, 192), (64, 128))
TRACED_BATCH, LARGER_BATCH = 2, 3

Size = tuple[int, int]  # height and width, in pixels


@dataclass(frozen=True)
class Sizes:
    """`fixed` is the one size of the graphs, or None if height and width are dynamic; `checked` is never empty."""

    fixed: Size | None = None
    checked: tuple[Size, ...] = USUAL

    @classmethod
    def of(cls, profiles: Sequence[Profile], *, dynamic: bool = False) -> Sizes:
        """One size of one shape is fixed, unless `dynamic`; ranges, several shapes and no shape at all are dynamic."""
        ends = [
            size
            for profile in profiles
            for size in ((profile.min_height, profile.min_width), (profile.max_height, profile.max_width))
        ]
        sizes = tuple(dict.fromkeys(ends))
        if not sizes:
            return cls()
        return cls(sizes[0] if len(sizes) == 1 and not dynamic else None, sizes)

    @property
    def traced(self) -> Size:
        """The size that the exporter sees: a dynamic graph is traced at another one than those it is checked at."""
        if self.fixed is not None:
            return self.fixed
        return next((size for size in _TRACED if size not in self.checked), _TRACED[0])

    @property
    def runs(self) -> tuple[tuple[int, Size], ...]:
        """(batch, size) of each comparison: one picture of every size, and a batch that was not traced of the smallest.

        If a dynamic graph is checked at all sizes that it might be traced at, one of them is still another.
        """
        smallest = min(self.checked, key=lambda size: size[0] * size[1])
        return (*((1, size) for size in self.checked), (LARGER_BATCH, smallest))

    @property
    def text(self) -> str:
        """'dynamic', or the fixed size as HEIGHTxWIDTH."""
        return DYNAMIC if self.fixed is None else f"{self.fixed[0]}x{self.fixed[1]}"
