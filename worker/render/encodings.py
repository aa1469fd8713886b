"""Caches of encodings: prompts by their tokens, edges by their pixels.

What a cache keeps for long must not lie between what others allocate for moments. A prompt of a small model has a few
hundred bytes; malloc places them into the hole that a picture of a megabyte has left, and no picture fits there again.
So each job left a hole, and a worker grew by gigabytes in ten thousand jobs. On a CPU, each encoding therefore has
pages of its own, which malloc never sees. On a GPU, torch rounds and pools its blocks, and host memory is not used.
"""

from __future__ import annotations

import hashlib
import mmap
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from worker.render.denoiser import Denoiser
from worker.render.request import ImageSpec
from worker.render.trajectory import Conditioning

# On the device. In float16, SD 1.5 needs 0.12 MB for a prompt, 2.6 MB for the edges of 512x512 pixels, and 42 MB for
# those of 2048x2048.
TEXT_BYTES = 64 * 2**20
HINT_BYTES = 128 * 2**20
# Of a small model, far more would fit in; each takes a page at least, and one of the mappings that a process may have.
TEXT_ENTRIES = 1024
HINT_ENTRIES = 512


class Recent:
    """The most recently used encodings, keyed by the content that was encoded: as many as both limits allow."""

    def __init__(
        self, encode: Callable[[np.ndarray], torch.Tensor], *, limit_bytes: int, limit_entries: int = TEXT_ENTRIES
    ) -> None:
        self._encode = encode
        self._limit_bytes = limit_bytes
        self._limit_entries = limit_entries
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()
        self._kept_bytes = 0

    def get(self, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """One encoding per array, in order. Unknown ones are encoded in one call, so all arrays must have one shape."""
        keys = [_key(array) for array in arrays]
        missing = {key: array for key, array in zip(keys, arrays, strict=True) if key not in self._kept}
        if missing:
            rows = self._encode(np.stack(list(missing.values())))
            for key, row in zip(missing, rows.unbind(0), strict=True):
                self._keep(key, row)
        for key in keys:
            self._kept.move_to_end(key)
        rows_by_array = [self._kept[key] for key in keys]
        self._forget()
        return rows_by_array

    def _keep(self, key: bytes, row: torch.Tensor) -> None:
        self._kept[key] = _own_copy(row)  # a view would keep the whole call's tensor alive
        self._kept_bytes += row.nbytes

    def _forget(self) -> None:
        while self._kept_bytes > self._limit_bytes or len(self._kept) > self._limit_entries:
            _, row = self._kept.popitem(last=False)
            self._kept_bytes -= row.nbytes


class Encodings:
    """Specs -> conditionings. Equal prompts share one encoding, and so do equal edges, across jobs."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._texts = Recent(denoiser.encode_text, limit_bytes=TEXT_BYTES, limit_entries=TEXT_ENTRIES)
        self._hints = Recent(denoiser.encode_hint, limit_bytes=HINT_BYTES, limit_entries=HINT_ENTRIES)

    def encode(self, specs: Sequence[ImageSpec]) -> list[Conditioning]:
        """Specs of one shape. Unknown prompts are encoded in one engine call, unknown edges in another."""
        texts = self._texts.get([ids for spec in specs for ids in (spec.uncond_ids, spec.cond_ids)])
        hints = self._hints.get([spec.edges for spec in specs])
        return [
            Conditioning(
                guided_hint=hint,
                context=torch.stack([unconditional, conditional]),
                control_scales=_control_scales(spec).to(hint),
            )
            for spec, hint, unconditional, conditional in zip(specs, hints, texts[::2], texts[1::2], strict=True)
        ]


def _control_scales(spec: ImageSpec) -> torch.Tensor:
    return torch.tensor([spec.uncond_control_scales, spec.cond_control_scales], dtype=torch.float32)


def _own_copy(row: torch.Tensor) -> torch.Tensor:
    """A copy that shares no memory with anything, and on a CPU no page either."""
    if row.device.type != "cpu" or not row.nbytes:
        return row.clone()
    pages = mmap.mmap(-1, row.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    # The tensor keeps `pages`, which are unmapped with it.
    return torch.frombuffer(pages, dtype=row.dtype, count=row.numel()).view(row.shape).copy_(row)


def _key(array: np.ndarray) -> bytes:
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()
