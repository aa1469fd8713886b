"""A FakeDenoiser that records its calls and fails on demand, and a loop that is driven to its end."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import numpy as np
import torch

from worker.fake import FakeDenoiser
from worker.render.batch import StepBatch
from worker.render.decoding import Decoding
from worker.render.errors import DeviceOutOfMemory
from worker.render.loop import RenderLoop

Picture = Future[np.ndarray]


class Device(FakeDenoiser):
    """Records its calls. Before each it asks `trouble(call, samples)` whether to raise an error."""

    def __init__(self, *, max_batch: int = 4, trouble: Callable[[str, int], Exception | None] | None = None) -> None:
        super().__init__(max_batch=max_batch)
        self.calls: list[tuple[str, int]] = []
        self.shapes: list[tuple[int, int]] = []
        self.guidance: list[list[float]] = []
        self.trouble = trouble

    def _called(self, name: str, samples: int) -> None:
        self.calls.append((name, samples))
        error = self.trouble(name, samples) if self.trouble is not None else None
        if error is not None:
            raise error

    def sizes(self, name: str) -> list[int]:
        return [samples for called, samples in self.calls if called == name]

    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        self._called("text", len(ids))
        return super().encode_text(ids)

    def encode_hint(self, edges: np.ndarray) -> torch.Tensor:
        self._called("hint", len(edges))
        return super().encode_hint(edges)

    def step(self, batch: StepBatch) -> torch.Tensor:
        self._called("step", batch.size)
        self.shapes.append(tuple(batch.latents.shape[2:]))  # type: ignore[arg-type]
        self.guidance.append(batch.guidance.tolist())
        return super().step(batch)

    def decode(self, latents: torch.Tensor) -> Decoding:
        self._called("decode", len(latents))
        return super().decode(latents)


def once(name: str, error: Exception) -> Callable[[str, int], Exception | None]:
    """Trouble at the first call of this name."""
    left = [error]
    return lambda called, _: left.pop() if called == name and left else None


def larger_than(limit: int, name: str) -> Callable[[str, int], Exception | None]:
    """No memory for calls of this name with more samples than `limit`."""
    return lambda called, samples: DeviceOutOfMemory("full") if called == name and samples > limit else None


def run(loop: RenderLoop, *, turns: int = 1000) -> int:
    """Turns until there is nothing to do."""
    for turn in range(turns):
        if not loop.step():
            return turn
    raise AssertionError(f"still busy after {turns} turns: {loop.stats()}")


def kinds(futures: list[Picture]) -> list[str]:
    """How futures ended: 'done', or the error's class."""
    assert all(future.done() for future in futures)
    return [type(future.exception()).__name__ if future.exception() else "done" for future in futures]
