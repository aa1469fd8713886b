"""A denoiser that remembers what it was asked and fails where a test wants it to; samples for the loop around it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np
import torch

from tests.worker.samples import sample_request
from worker.decoding import Decoding
from worker.denoiser import FakeDenoiser
from worker.loop import RenderLoop
from worker.slots import SampleRequest, StepBatch


class RecordingDenoiser(FakeDenoiser):
    """A FakeDenoiser that keeps the sizes of its calls, and does something first where `before` says so."""

    def __init__(self, *, max_batch: int = 4, before: Callable[[str, int], None] | None = None) -> None:
        """`before` gets the call's name and its number of samples; it may raise."""
        super().__init__(max_batch=max_batch)
        self.calls: list[tuple[str, int]] = []  # those that went well, in order
        self.shapes: list[tuple[int, int]] = []  # of the latents, one a step that went well
        self._before = before or (lambda name, size: None)

    def sizes(self, name: str) -> list[int]:
        """Samples in each call of one kind that went well."""
        return [size for called, size in self.calls if called == name]

    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        self._note("encode_text", len(ids))
        return super().encode_text(ids)

    def encode_hint(self, edges: np.ndarray) -> torch.Tensor:
        self._note("encode_hint", len(edges))
        return super().encode_hint(edges)

    def step(self, batch: StepBatch) -> torch.Tensor:
        self._note("step", batch.size)
        self.shapes.append((int(batch.latents.shape[2]), int(batch.latents.shape[3])))
        return super().step(batch)

    def decode(self, latents: torch.Tensor) -> Decoding:
        self._note("decode", len(latents))
        return super().decode(latents)

    def _note(self, name: str, size: int) -> None:
        self._before(name, size)
        self.calls.append((name, size))


def run_out(loop: RenderLoop) -> int:
    """Turns until there is nothing to do; how many there were."""
    turns = 0
    while loop.step():
        turns += 1
        assert turns < 10_000
    return turns


def ask(name: str, **values: Any) -> SampleRequest:
    """A request of the job of that name, with edges, prompt and seed of its own."""
    return sample_request(sum(map(ord, name)), **({"job_id": name} | values))


def submitted(
    loop: RenderLoop, names: str, *, steps: int = 3, size: tuple[int, int] = (64, 64)
) -> list[Future[np.ndarray]]:
    """One sample a letter."""
    return [loop.submit(ask(name, steps=steps, size=size)) for name in names]


def alone(name: str, *, steps: int = 3, size: tuple[int, int] = (64, 64)) -> np.ndarray:
    """What a sample looks like when nothing else is there."""
    loop = RenderLoop(FakeDenoiser())
    future = loop.submit(ask(name, steps=steps, size=size))
    run_out(loop)
    return future.result(0)
