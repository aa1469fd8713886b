"""Caches of encodings: prompts by their tokens, hints by their pixels, both by the engine set that encoded them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from copy import copy

import numpy as np
import torch

from worker.render.denoiser import Denoiser
from worker.render.denoisers import Denoisers
from worker.render.device import to_device
from worker.render.emphasis import emphasized
from worker.render.request import ImageSpec
from worker.render.slab import Slab, Slot
from worker.render.trajectory import Conditioning

# On the device. In float16, SD 1.5 needs 0.12 MB for a prompt, 2.6 MB for the edges of 512x512 pixels, and 42 MB for
# those of 2048x2048.
TEXT_BYTES = 64 * 2**20
HINT_BYTES = 128 * 2**20
# Far more encodings of a small model would fit in.
TEXT_ENTRIES = 1024
HINT_ENTRIES = 512

Encode = Callable[[np.ndarray], torch.Tensor]


class Recent:
    """The most recently used encodings, keyed by the content that was encoded: as many as both limits allow."""

    def __init__(self, encode: Encode, *, limit_bytes: int, limit_entries: int = TEXT_ENTRIES) -> None:
        self._encode = encode
        self._engine_set = ""
        self._limit_entries = limit_entries
        self._slab = Slab(limit_bytes=limit_bytes, block_slots=limit_entries)
        self._kept: OrderedDict[bytes, Slot] = OrderedDict()

    def of_set(self, engine_set: str, encode: Encode) -> Recent:
        """Those of another engine set, which encodes in its own way. All sets share the limits."""
        other = copy(self)
        other._engine_set, other._encode = engine_set, encode
        return other

    def get(self, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """One encoding per array, in order. Unknown ones of one shape are encoded in one call."""
        keys = [_key(array, self._engine_set) for array in arrays]
        rows = {key: self._kept[key].read() for key in dict.fromkeys(keys) if key in self._kept}
        for key in rows:
            self._kept.move_to_end(key)
        missing = {key: array for key, array in zip(keys, arrays, strict=True) if key not in rows}
        for shape in {array.shape: None for array in missing.values()}:
            some = {key: array for key, array in missing.items() if array.shape == shape}
            encoded = self._encode(np.stack(list(some.values())))
            for key, row in zip(some, encoded.unbind(0), strict=True):
                rows[key] = row.clone()  # a view would keep the whole call's tensor alive
                self._keep(key, row)
        return [rows[key] for key in keys]

    def _keep(self, key: bytes, row: torch.Tensor) -> None:
        """Keep a row if it fits in at all; the least recently used ones make room."""
        if not self._slab.fits(row):
            return
        if len(self._kept) >= self._limit_entries:
            self._forget_one()
        while (slot := self._slab.put(row)) is None:
            self._forget_one()
        self._kept[key] = slot

    def _forget_one(self) -> None:
        _, slot = self._kept.popitem(last=False)
        self._slab.free(slot)


class Encodings:
    """Specs -> conditionings. Equal prompts share one encoding, and so do equal hints, across jobs."""

    def __init__(self, denoisers: Denoiser | Denoisers) -> None:
        self._denoisers = denoisers if isinstance(denoisers, Denoisers) else Denoisers.of_one(denoisers)
        self._texts = Recent(_of_no_set, limit_bytes=TEXT_BYTES, limit_entries=TEXT_ENTRIES)
        self._hints = Recent(_of_no_set, limit_bytes=HINT_BYTES, limit_entries=HINT_ENTRIES)

    def encode(self, specs: Sequence[ImageSpec]) -> list[Conditioning]:
        """Specs of one bucket. Unknown prompts are encoded in one engine call, unknown edges and pictures in others."""
        engine_set = specs[0].engine_set
        denoiser = self._denoisers.of(engine_set)
        texts = _contexts(specs, self._texts.of_set(engine_set, denoiser.encode_text))
        hints = self._hints.of_set(engine_set, denoiser.encode_hint).get([spec.edges for spec in specs])
        return [
            Conditioning(
                guided_hint=hint,
                context=torch.stack([unconditional, conditional]),
                control_scales=_control_scales(spec).to(hint),
            )
            for spec, hint, unconditional, conditional in zip(specs, hints, texts[::2], texts[1::2], strict=True)
        ]


def _contexts(specs: Sequence[ImageSpec], texts: Recent) -> list[torch.Tensor]:
    """Two a spec, [77 * chunks, width], the unconditional one first.

    The cache keeps chunks as the text encoder gives them. Weights are applied to a copy, so a prompt's encoding
    serves all weights that it is given.
    """
    halves = [
        (ids, weights, spec.chunks)
        for spec in specs
        for ids, weights in ((spec.uncond_ids, spec.uncond_weights), (spec.cond_ids, spec.cond_weights))
    ]
    encoded = iter(texts.get([chunk for ids, _, number in halves for chunk in np.split(ids, number)]))
    return [_joined([next(encoded) for _ in range(number)], weights) for _, weights, number in halves]


def _joined(chunks: Sequence[torch.Tensor], weights: np.ndarray | None) -> torch.Tensor:
    """The encoding of a prompt from those of its chunks, each weighted by itself."""
    if weights is not None:
        parts = np.split(weights, len(chunks))
        chunks = [emphasized(chunk, to_device(part, chunk.device)) for chunk, part in zip(chunks, parts, strict=True)]
    return chunks[0] if len(chunks) == 1 else torch.cat(list(chunks))


def _of_no_set(_: np.ndarray) -> torch.Tensor:
    raise AssertionError("what is encoded belongs to an engine set")


def _control_scales(spec: ImageSpec) -> torch.Tensor:
    return torch.tensor([spec.uncond_control_scales, spec.cond_control_scales], dtype=torch.float32)


def _key(array: np.ndarray, engine_set: str) -> bytes:
    return hashlib.sha256(repr((engine_set, array.shape)).encode() + array.tobytes()).digest()
