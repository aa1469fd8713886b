"""What is encoded once and used often: prompts by their tokens, edges by their pixels."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch

from worker.render.denoiser import Denoiser
from worker.render.request import Conditioning, ImageSpec

# On the device. SD1.5 in float16: a prompt has 0.12 MB, the edges of 512x512 pixels 2.6 MB, of 2048x2048 42 MB.
TEXT_BYTES = 64 * 2**20
HINT_BYTES = 128 * 2**20


class Recent:
    """The encodings used last, by the content of what was encoded, as many as fit in `limit_bytes`."""

    def __init__(self, encode: Callable[[np.ndarray], torch.Tensor], *, limit_bytes: int) -> None:
        self._encode = encode
        self._limit_bytes = limit_bytes
        self._kept: OrderedDict[bytes, torch.Tensor] = OrderedDict()

    def get(self, arrays: Sequence[np.ndarray]) -> list[torch.Tensor]:
        """One encoding an array, in order; those not known yet are encoded in one call. Arrays have one shape."""
        keys = [_key(array) for array in arrays]
        missing = {key: array for key, array in zip(keys, arrays, strict=True) if key not in self._kept}
        if missing:
            rows = self._encode(np.stack(list(missing.values())))
            for key, row in zip(missing, rows.unbind(0), strict=True):
                self._kept[key] = row.clone()  # a view would keep the whole call's tensor alive
        for key in keys:
            self._kept.move_to_end(key)
        found = [self._kept[key] for key in keys]
        self._forget()
        return found

    def _forget(self) -> None:
        kept_bytes = sum(row.nbytes for row in self._kept.values())
        while kept_bytes > self._limit_bytes:
            _, row = self._kept.popitem(last=False)
            kept_bytes -= row.nbytes


class Encodings:
    """Requests -> their conditioning. Equal prompts share their encoding, and so do equal edges, whatever the job."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._texts = Recent(denoiser.encode_text, limit_bytes=TEXT_BYTES)
        self._hints = Recent(denoiser.encode_hint, limit_bytes=HINT_BYTES)

    def encode(self, requests: Sequence[ImageSpec]) -> list[Conditioning]:
        """All of one shape; what is not known yet is encoded in one engine call each."""
        texts = self._texts.get([ids for request in requests for ids in (request.uncond_ids, request.cond_ids)])
        hints = self._hints.get([request.edges for request in requests])
        return [
            Conditioning(
                guided_hint=hint,
                context=torch.stack([unconditional, conditional]),
                control_scales=_control_scales(request).to(hint),
            )
            for request, hint, unconditional, conditional in zip(requests, hints, texts[::2], texts[1::2], strict=True)
        ]


def _control_scales(request: ImageSpec) -> torch.Tensor:
    return torch.tensor([request.uncond_control_scales, request.cond_control_scales], dtype=torch.float32)


def _key(array: np.ndarray) -> bytes:
    return hashlib.sha256(repr(array.shape).encode() + array.tobytes()).digest()
