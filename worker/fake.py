"""The parts of a renderer without networks, for trying everything else: queues, storage, faults, load.

RENDER_ENGINE_DIR=fake: or fake:step_ms=20,sample_ms=5,max_batch=8 selects them. No folder is called that by accident,
the worker warns at every start, and every result names the engine set `fake`. Everything but the networks is real:
pictures are fetched, edges found, samples batched and stepped, PNGs written. With sets=3 the worker holds three engine
sets, `default`, `fake-2` and `fake-3`, each with pictures of its own; loading one takes load_ms.
"""

from __future__ import annotations

import re
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import partial

import numpy as np
import torch

from engines.noise_schedule import SD15, NoiseSchedule
from jobs.settings import Settings
from worker.held_sets import DEFAULT
from worker.image.tokens import Piece, PromptEncoder
from worker.render import ddim
from worker.render.batch import StepBatch
from worker.render.decoding import Decoding
from worker.render.denoisers import Denoisers
from worker.render.loop import RenderLoop
from worker.render.request import BucketKey
from worker.render.residency import Residency
from worker.shutdown import Shutdown

DIGEST = "fake"
LENGTH = 77


@dataclass(frozen=True)
class FakeTiming:
    """How long a step takes: `step_ms` plus `sample_ms` a sample. `max_batch` samples share a step.

    `sets` engine sets are held, and `load_ms` is how long loading one takes.
    """

    step_ms: int = 0
    sample_ms: int = 0
    max_batch: int = 8
    load_ms: int = 0
    sets: int = 1

    @classmethod
    def parse(cls, text: str) -> FakeTiming:
        """Read `step_ms=20,max_batch=4`; every part may be left out.

        Raises:
            ValueError: an unknown name, or a value that is not a number, or no samples in a step; it says which.
        """
        names = [field.name for field in fields(cls)]
        values: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in names or not value.isdecimal() or (name == "max_batch" and not int(value)):
                raise ValueError(f"{part!r} is not one of {'=N, '.join(names)}=N")
            values[name] = int(value)
        return cls(**values)

    def seconds(self, samples: int) -> float:
        """How long a step of so many samples takes."""
        return (self.step_ms + self.sample_ms * samples) / 1000

    @property
    def names(self) -> dict[str, str]:
        """The names of the sets -> their digests."""
        if self.sets <= 1:
            return {DIGEST: DIGEST}
        return {DEFAULT: DIGEST} | {name: name for name in (f"{DIGEST}-{n}" for n in range(2, self.sets + 1))}


class FakeTokenizer(PromptEncoder):
    """One token a word, the same on every machine. Stands in for worker.image.tokens.Tokenizer."""

    def __init__(self) -> None:
        super().__init__(_words, length=LENGTH, special=(0, 0, 0), comma=None)


def _words(text: str) -> list[Piece]:
    words = re.finditer(r"\S+", text)
    return [Piece(zlib.crc32(word[0].encode()) % 49_000, word.start()) for word in words]


class FakeDenoiser:
    """A Denoiser on the CPU that moves latents towards what `predict` says, and takes `seconds(N)` a step.

    As with real engines, pictures depend on seed, steps and hint, and not on the batch they were made in.
    """

    def __init__(
        self,
        predict: Callable[[StepBatch], torch.Tensor] | None = None,
        *,
        max_batch: int = 8,
        seconds: Callable[[int], float] = lambda _: 0.0,
        load_seconds: float = 0.0,
    ) -> None:
        self._predict = predict or _towards_the_hint
        self._limit = max_batch
        self._seconds = seconds
        self._load_seconds = load_seconds

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule of SD1.5."""
        return SD15

    def max_batch(self, height: int, width: int) -> int:  # noqa: ARG002 (the same for all)
        """The limit that the constructor was given."""
        return self._limit

    def batch_size(self, samples: int, height: int, width: int) -> int:  # noqa: ARG002 (the same for all)
        """The number of samples: batches are not padded."""
        return samples

    def graph_sizes(self, key: BucketKey) -> tuple[int, ...]:  # noqa: ARG002 (the same for all)
        """None: a new batch size costs nothing."""
        return ()

    def graphs(self, key: BucketKey) -> frozenset[int]:  # noqa: ARG002 (the same for all)
        """Empty: nothing is captured."""
        return frozenset()

    def warm(self, key: BucketKey, size: int) -> None:
        """Do nothing: a new size costs nothing."""

    def drop_graphs(self) -> bool:
        """False: there are no graphs to drop."""
        return False

    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        """Token ids as numbers, float32 [N, 77, 1]."""
        return torch.from_numpy(ids).float().unsqueeze(-1)

    def encode_hint(self, hints: np.ndarray) -> torch.Tensor:
        """Edges or pictures averaged over each latent cell, float32 [N, 1, h, w]."""
        grey = hints.mean(axis=3, dtype=np.float32) if hints.ndim == 4 else hints
        return torch.nn.functional.avg_pool2d(torch.from_numpy(grey).float().unsqueeze(1) / 255, 8)

    def step(self, batch: StepBatch) -> torch.Tensor:
        """A real DDIM step on a made-up prediction."""
        time.sleep(self._seconds(batch.size))
        return ddim.step(batch.latents, self._predict(batch), coefficients=batch.coefficients, noise=batch.noise)

    def decode(self, latents: torch.Tensor) -> Decoding:
        """The first three channels, enlarged."""
        return Decoding(torch.nn.functional.interpolate(latents[:, :3] / 3, scale_factor=8))

    def load(self) -> None:
        """Sleep as long as loading takes."""
        time.sleep(self._load_seconds)

    def unload(self) -> None:
        """Do nothing: nothing was loaded."""

    @property
    def reload_seconds(self) -> float:
        """The seconds that the constructor was given."""
        return self._load_seconds


def fake_loop(timing: FakeTiming, settings: Settings, shutdown: Shutdown | None) -> RenderLoop:
    """The loop of all fake sets; the first one is loaded."""
    first = DIGEST
    denoisers = Denoisers(
        {
            digest: FakeDenoiser(
                partial(_towards_the_hint, pull=0.01 * number),
                max_batch=timing.max_batch,
                seconds=timing.seconds,
                load_seconds=timing.load_ms / 1000,
            )
            for number, digest in enumerate(timing.names.values(), start=1)
        },
        loaded=[first],
    )
    limit = 1 if settings.low_vram else settings.sets_resident
    residency = Residency(limit=limit, reload_seconds=denoisers.reload_seconds)
    residency.arrived(first)
    return RenderLoop(denoisers, shutdown, residency=residency)


def _towards_the_hint(batch: StepBatch, pull: float = 0.01) -> torch.Tensor:
    hint = batch.guided_hint[batch.size :].float()
    return 0.1 * batch.latents + hint * pull * batch.guidance.view(-1, 1, 1, 1)
