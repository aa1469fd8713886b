"""What packages are compiled for: single picture sizes, batches in powers of two, and each number of chunks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

from engines.backends.stages import WITH_CONTEXT
from engines.errors import BackendUnavailable
from engines.spec import PIXEL_MULTIPLE, Profile

# Components that see no picture: one package a batch size serves all shapes.
SHAPELESS = ("clip",)
# Sizes in a range: each is a package a batch size for four components, and a minute to compile on a GPU.
MOST_SIZES = 32
_STAGE = re.compile(r"(?:(\d+)x(\d+)-)?batch(\d+)(?:-context(\d+))?")


@dataclass(frozen=True, order=True)
class Size:
    """What one package is compiled for: images, pixels (0 for a component that sees no picture), a prompt's chunks."""

    batch: int
    height: int = 0
    width: int = 0
    chunks: int = 1

    @property
    def stage(self) -> str:
        """Its stage's name: '512x512-batch8', '512x512-batch8-context2', or 'batch8'."""
        pixels = f"{self.height}x{self.width}-" if self.height else ""
        return f"{pixels}batch{self.batch}" + (f"-context{self.chunks}" if self.chunks > 1 else "")

    @classmethod
    def of_stage(cls, stage: str) -> Size | None:
        """The size of a stage's name, or None for a stage that is not a package."""
        match = _STAGE.fullmatch(stage)
        if match is None:
            return None
        height, width, batch, chunks = match.groups()
        return cls(int(batch), int(height or 0), int(width or 0), int(chunks or 1))


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, ... and max_batch itself. A batch is padded to the next of them, by less than its own size."""
    powers = [1 << i for i in range(max_batch.bit_length()) if 1 << i < max_batch]
    return (*powers, max_batch)


def single_sizes(profiles: Sequence[Profile]) -> tuple[Profile, ...]:
    """One profile a picture size: a range becomes every size in it, since a package is compiled for one.

    Raises:
        BackendUnavailable: there would be more than MOST_SIZES.
    """
    singles: dict[tuple[int, int], Profile] = {}  # where two profiles cover a size, the first one draws it
    for profile in profiles:
        heights = range(profile.min_height, profile.max_height + 1, PIXEL_MULTIPLE)
        widths = range(profile.min_width, profile.max_width + 1, PIXEL_MULTIPLE)
        if len(heights) * len(widths) > MOST_SIZES:
            raise BackendUnavailable(
                f"inductor compiles for single shapes, {profile.text} is a range of {len(heights) * len(widths)}, and "
                f"at most {MOST_SIZES} are compiled; give each shape that is needed its own --shape"
            )
        for height, width in product(heights, widths):
            sides = {"min_height": height, "max_height": height, "min_width": width, "max_width": width}
            singles.setdefault((height, width), profile.model_copy(update=sides))
    return tuple(singles.values())


def sizes_of(component: str, profiles: Sequence[Profile]) -> tuple[Size, ...]:
    """Every package of one component, smallest first."""
    if component in SHAPELESS:
        return tuple(Size(batch) for batch in batch_sizes(max(profile.max_batch for profile in profiles)))
    return tuple(
        Size(batch, profile.max_height, profile.max_width, chunks)
        for profile in profiles
        for batch in batch_sizes(profile.max_batch)
        for chunks in range(1, (profile.max_context_chunks if component in WITH_CONTEXT else 1) + 1)
    )
