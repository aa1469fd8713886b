"""RequestBatch, the requests that step together; and StepBatch, one engine call for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from engines.spec import CONTROLS
from worker.render.device import to_device
from worker.render.request import ImageRequest


@dataclass(frozen=True, eq=False)
class StepBatch:
    """One engine call, on the engines' device: N samples with padding, R = 2N rows, unconditional half first."""

    latents: torch.Tensor  # float32 [N, 4, h, w]
    guided_hint: torch.Tensor  # [R, C, h, w]
    context: torch.Tensor  # [R, 77 * chunks, width]
    control_scales: torch.Tensor  # [R, 13]
    guidance: torch.Tensor  # float32 [N]
    timestep: torch.Tensor  # float32 [N]
    coefficients: torch.Tensor  # float32 [N, 3]
    noise: torch.Tensor | None  # float32 [N, 4, h, w]

    @property
    def size(self) -> int:
        """The number of samples, N."""
        return int(self.latents.shape[0])

    def tensors(self) -> dict[str, torch.Tensor]:
        """Tensors by name; without `noise` where no sample needs any."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


class RequestBatch:
    """Running requests of one shape that step together, with their tensors stacked.

    Everything that is known before the first step is stacked and uploaded once, when the batch is made. A batch lives
    until its membership changes, so at the latest until its first request has taken its last step.
    """

    def __init__(self, requests: Sequence[ImageRequest], *, batch_size: int | None = None) -> None:
        """`batch_size`: pad to this many samples, with copies of the last one."""
        self.requests = tuple(requests)
        filled = (*self.requests, *self.requests[-1:] * ((batch_size or 0) - len(self.requests)))
        self._trajectories = [request.trajectory for request in filled]
        conditionings = [trajectory.conditioning for trajectory in self._trajectories]
        self._latents = torch.stack([trajectory.latents for trajectory in self._trajectories])
        self._guided_hint = torch.stack([one.guided_hint for one in conditionings]).repeat(2, 1, 1, 1)
        self._context = _by_half([one.context for one in conditionings])
        self._control_scales = _by_half([one.control_scales for one in conditionings])
        scales = np.array([request.spec.scale for request in filled], dtype=np.float32)
        self._guidance = to_device(scales, self._latents.device)
        self._noisy = any(request.spec.eta > 0 for request in filled)
        # float32 [steps, N, 4], up to the last step of the request that finishes first.
        schedules = [trajectory.remaining for trajectory in self._trajectories]
        shortest = min(map(len, schedules))
        self._steps = to_device(np.stack([steps[:shortest] for steps in schedules], axis=1), self._latents.device)
        self._index = 0

    @property
    def size(self) -> int:
        """N, samples, padding included."""
        return len(self._trajectories)

    def holds(self, requests: Sequence[ImageRequest]) -> bool:
        """Whether the batch is made of exactly these requests, in this order."""
        return len(requests) == len(self.requests) and all(
            one is other for one, other in zip(requests, self.requests, strict=True)
        )

    @property
    def stale(self) -> bool:
        """A request has ended, so these requests will not step together again."""
        return any(request.ended for request in self.requests)

    def next_step(self) -> StepBatch:
        """The next step of every request."""
        step = self._steps[self._index]
        return StepBatch(
            latents=self._latents,
            guided_hint=self._guided_hint,
            context=self._context,
            control_scales=self._control_scales,
            guidance=self._guidance,
            timestep=step[:, 0],
            coefficients=step[:, 1:],
            noise=self._noise(),
        )

    def advance(self, latents: torch.Tensor) -> None:
        """Take the result of the step, float32 [N, 4, h, w]."""
        self._latents = latents
        self._index += 1
        rows = latents[: len(self.requests)].unbind(0)
        for request, row in zip(self.requests, rows, strict=True):
            request.trajectory.advance(row)

    def _noise(self) -> torch.Tensor | None:
        if not self._noisy:
            return None
        zero = torch.zeros(self._latents.shape[1:])
        draws = [trajectory.noise for trajectory in self._trajectories]
        stacked = torch.stack([zero if noise is None else noise for noise in draws])
        return to_device(stacked, self._latents.device)


def padded(rows: torch.Tensor, *, to: int) -> torch.Tensor:
    """`rows` with copies of the last one, so that there are `to` of them."""
    missing = to - len(rows)
    return rows if missing <= 0 else torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])])


def blank_batch(hint: torch.Tensor, text: torch.Tensor, *, size: int, tokens: int) -> StepBatch:
    """A step of so many samples that belong to no job, to prepare the device for others of this size.

    Args:
        hint: [1, C, h, w], an encoded hint.
        text: [1, 77, width], an encoded chunk of a prompt.
        size: N, samples.
        tokens: of each prompt, a multiple of the chunk's.
    """
    height, width = hint.shape[-2:]
    numbers = torch.ones(size, 4, device=hint.device)
    return StepBatch(
        latents=torch.zeros(size, 4, height, width, device=hint.device),
        guided_hint=hint.repeat(2 * size, 1, 1, 1),
        context=text.repeat(2 * size, tokens // text.shape[1], 1),
        control_scales=torch.ones(2 * size, CONTROLS, device=hint.device).to(hint),
        guidance=torch.ones(size, device=hint.device),
        timestep=numbers[:, 0],
        coefficients=numbers[:, 1:],
        noise=None,
    )


def _by_half(pairs: Sequence[torch.Tensor]) -> torch.Tensor:
    """[(uncond, cond), ...] -> all uncond rows, then all cond rows."""
    return torch.stack(list(pairs), dim=1).flatten(0, 1)
