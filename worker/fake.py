"""A renderer without engines, for trying out everything else: queues, storage, faults, load.

RENDER_ENGINE_DIR=fake: or fake:step_ms=20,sample_ms=5,max_batch=8 chooses it. No folder is called that by accident, the
worker warns at every start, and every result says that it was rendered with the engine set `fake`. Everything but the
networks is real: pictures are fetched, edges found, samples batched and stepped, PNGs written.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, fields
from functools import partial
from typing import cast

import numpy as np
import structlog

from worker.image.tokens import Tokenizer, Tokens
from worker.prepare import prepare
from worker.render.denoiser import FakeDenoiser
from worker.renderer import Renderer, RendererRefused, assembled

log = structlog.get_logger(__name__)

DIGEST = "fake"
LENGTH = 77


@dataclass(frozen=True)
class FakeTiming:
    """How long a step takes: `step_ms` plus `sample_ms` a sample. `max_batch` samples share a step."""

    step_ms: int = 0
    sample_ms: int = 0
    max_batch: int = 8

    @classmethod
    def parse(cls, text: str) -> FakeTiming:
        """`step_ms=20,max_batch=4`; '' is no time at all.

        Raises:
            RendererRefused: an unknown name or a value that is no number.
        """
        names = [field.name for field in fields(cls)]
        values: dict[str, int] = {}
        for part in filter(None, text.split(",")):
            name, _, value = part.partition("=")
            if name not in names or not value.isdecimal():
                raise RendererRefused(f"RENDER_ENGINE_DIR=fake:{text}: {part!r} is none of {'=N, '.join(names)}=N")
            values[name] = int(value)
        return cls(**values)


class FakeTokenizer:
    """Words -> numbers, the same everywhere."""

    def encode(self, text: str) -> Tokens:
        """One id a word; what is over 77 is cut as by the real one."""
        words = text.split()
        ids = np.zeros(LENGTH, dtype=np.int64)
        kept = words[: LENGTH - 2]
        ids[: len(kept)] = [zlib.crc32(word.encode()) % 49_000 for word in kept]
        return Tokens(ids, " ".join(words[LENGTH - 2 :]))


def fake_renderer(text: str, *, max_pixels: int) -> Renderer:
    """What stands after `fake:` -> a renderer."""
    timing = FakeTiming.parse(text)
    log.warning("fake_engines", consequence="pictures show what no model has drawn", timing=text)
    denoiser = FakeDenoiser(
        max_batch=timing.max_batch, seconds=lambda samples: (timing.step_ms + timing.sample_ms * samples) / 1000
    )
    # Nothing of the tokenizer is used but `encode`, and a real one would need an engine set.
    tokenizer = cast(Tokenizer, FakeTokenizer())
    return assembled(denoiser, partial(prepare, tokenizer=tokenizer, max_pixels=max_pixels), digest=DIGEST)
