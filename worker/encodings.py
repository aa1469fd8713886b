"""What is encoded once and used often: prompts by their tokens, edges by their job."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch

from worker.denoiser import Denoiser
from worker.slots import Conditioning, SampleRequest

TEXTS = 1024  # 77 x 768 float16: 0.12 MB each
HINTS = 32  # 320 x 64 x 64 float16: 2.6 MB each


class _Recent:
    """The last so many encodings by key; what is missing is encoded in one call."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: OrderedDict[Hashable, torch.Tensor] = OrderedDict()

    def get(
        self, wanted: Sequence[tuple[Hashable, np.ndarray]], encode: Callable[[np.ndarray], torch.Tensor]
    ) -> dict[Hashable, torch.Tensor]:
        missing = {key: array for key, array in wanted if key not in self._kept}
        if missing:
            rows = encode(np.stack(list(missing.values())))
            self._kept.update(zip(missing, rows.unbind(0), strict=True))
        found = {key: self._kept[key] for key, _ in wanted}
        for key in found:
            self._kept.move_to_end(key)
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)
        return found


class Encodings:
    """Requests -> their conditioning. Samples of one job share its edges; equal prompts share their encoding."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self._texts = _Recent(TEXTS)
        self._hints = _Recent(HINTS)

    def encode(self, requests: Sequence[SampleRequest]) -> list[Conditioning]:
        """All of one shape; what is not known yet is encoded in one engine call each."""
        pairs = [(request.uncond_ids, request.cond_ids) for request in requests]
        texts = self._texts.get([(ids.tobytes(), ids) for pair in pairs for ids in pair], self._denoiser.encode_text)
        hints = self._hints.get(
            [((request.job_id, request.shape), request.edges) for request in requests], self._denoiser.encode_hint
        )
        return [
            _conditioning(
                request,
                hint=hints[(request.job_id, request.shape)],
                context=torch.stack([texts[request.uncond_ids.tobytes()], texts[request.cond_ids.tobytes()]]),
            )
            for request in requests
        ]


def _conditioning(request: SampleRequest, *, hint: torch.Tensor, context: torch.Tensor) -> Conditioning:
    scales = torch.tensor([request.uncond_control_scales, request.cond_control_scales], dtype=hint.dtype)
    return Conditioning(guided_hint=hint, context=context, control_scales=scales.to(hint.device))
