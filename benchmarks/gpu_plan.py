"""What `benchmarks.gpu` measures: one engine set, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from engines.manifest import load_manifest


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    engine_set: Path
    model: Path | None
    controlnet: Path | None
    steps: int
    images: int
    jobs: int
    device: str
    parts: tuple[str, ...]
    gpus: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the set's first shape, in pixels."""
        profile = load_manifest(self.engine_set).profiles[0]
        return profile.max_height, profile.max_width

    @property
    def max_batch(self) -> int:
        """Images a batch of the set."""
        return load_manifest(self.engine_set).max_batch
