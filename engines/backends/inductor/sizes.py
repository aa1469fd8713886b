"""What packages are compiled for: single picture sizes, and batches in powers of two."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from engines.errors import BackendUnavailable
from engines.spec import Profile

# Components that see no picture: one package a batch size serves all shapes.
SHAPELESS = ("clip",)
_STAGE = re.compile(r"(?:(\d+)x(\d+)-)?batch(\d+)")


@dataclass(frozen=True, order=True)
class Size:
    """What one package is compiled for: images, and pixels (0 for a component that sees no picture)."""

    batch: int
    height: int = 0
    width: int = 0

    @property
    def stage(self) -> str:
        """Its stage's name: '512x512-batch8', or 'batch8'."""
        return f"{self.height}x{self.width}-batch{self.batch}" if self.height else f"batch{self.batch}"

    @classmethod
    def of_stage(cls, stage: str) -> Size | None:
        """The size of a stage's name, or None for a stage that is not a package."""
        match = _STAGE.fullmatch(stage)
        if match is None:
            return None
        height, width, batch = match.groups()
        return cls(int(batch), int(height or 0), int(width or 0))


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, ... and max_batch itself. A batch is padded to the next of them, by less than its own size."""
    powers = [1 << i for i in range(max_batch.bit_length()) if 1 << i < max_batch]
    return (*powers, max_batch)


def check_profiles(profiles: Sequence[Profile]) -> None:
    """Raises BackendUnavailable for a range of shapes: a package is compiled for one."""
    for profile in profiles:
        if (profile.min_height, profile.min_width) != (profile.max_height, profile.max_width):
            raise BackendUnavailable(
                f"inductor compiles for single shapes, {profile.text} is a range; give each shape its own --shape"
            )


def sizes_of(component: str, profiles: Sequence[Profile]) -> tuple[Size, ...]:
    """Every package of one component, smallest first."""
    if component in SHAPELESS:
        return tuple(Size(batch) for batch in batch_sizes(max(profile.max_batch for profile in profiles)))
    return tuple(
        Size(batch, profile.max_height, profile.max_width)
        for profile in profiles
        for batch in batch_sizes(profile.max_batch)
    )
