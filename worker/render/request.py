"""ImageSpec -> ImageRequest (a sample being denoised) -> StepBatch (one engine call)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, fields

import numpy as np
import torch

from worker.render import ddim
from worker.render.device import to_device

CONTROLS = 13


@dataclass(frozen=True, eq=False)
class ImageSpec:
    """One picture to draw. Everything that decides how it looks is here; the same request gives the same picture."""

    job_id: str
    sample: int  # index within the job
    edges: np.ndarray  # uint8 [H, W], 0 or 255; H and W in pixels, multiples of 64
    cond_ids: np.ndarray  # int64 [77]
    uncond_ids: np.ndarray  # int64 [77]
    seed: int  # this sample's own: the job's seed + sample
    steps: int
    eta: float
    scale: float  # guidance
    cond_control_scales: tuple[float, ...]  # 13
    uncond_control_scales: tuple[float, ...]  # 13

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.edges.shape[0]), int(self.edges.shape[1])


class ImageRequest:
    """A sample being denoised: where it is in its schedule, its latents between engine calls, and its own noise.

    Noise: one CPU generator a sample, float32, the initial latent first and then one draw a step where eta > 0, so the
    picture is the same whatever the batch, the backend or the GPU.
    """

    def __init__(self, request: ImageSpec, future: Future[np.ndarray], *, conditioning: Conditioning) -> None:
        self.request = request
        self.future = future
        self.conditioning = conditioning
        self.schedule = ddim.schedule(request.steps, request.eta)
        self.index = 0  # of the next step
        self._generator = torch.Generator("cpu").manual_seed(request.seed)
        self.latents = to_device(self._draw(), conditioning.guided_hint.device)  # float32 [4, h, w]
        self._noise: torch.Tensor | None = None

    @property
    def finished(self) -> bool:
        """Every step was taken."""
        return self.index == self.schedule.steps

    @property
    def to_come(self) -> np.ndarray:
        """Timestep and DDIM coefficients of every step to come: float32 [steps left, 4]."""
        timesteps = self.schedule.timesteps[self.index :, None].astype(np.float32)
        return np.concatenate([timesteps, self.schedule.coefficients[self.index :]], axis=1)

    @property
    def noise(self) -> torch.Tensor | None:
        """float32 [4, h, w] for the next step, None where eta is 0; the same if a step has to be tried again."""
        if self._noise is None and self.request.eta > 0:
            self._noise = self._draw()
        return self._noise

    def advance(self, latents: torch.Tensor) -> None:
        """Take the step's outcome, float32 [4, h, w]."""
        self.latents = latents
        self._noise = None
        self.index += 1

    def _draw(self) -> torch.Tensor:
        return torch.randn(self.conditioning.latent_shape, generator=self._generator, dtype=torch.float32)


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What steers a sample, encoded: rows are unconditional first, then conditional, as everywhere."""

    guided_hint: torch.Tensor  # [C, h, w]
    context: torch.Tensor  # [2, 77, width]
    control_scales: torch.Tensor  # [2, 13]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(4, h, w)."""
        return 4, int(self.guided_hint.shape[-2]), int(self.guided_hint.shape[-1])


@dataclass(frozen=True, eq=False)
class StepBatch:
    """One engine call: N samples, padding among them, R = 2N rows, unconditional half first; on the engines' device."""

    latents: torch.Tensor  # float32 [N, 4, h, w]
    guided_hint: torch.Tensor  # [R, C, h, w]
    context: torch.Tensor  # [R, 77, width]
    control_scales: torch.Tensor  # [R, 13]
    guidance: torch.Tensor  # float32 [N]
    timestep: torch.Tensor  # float32 [N]
    coefficients: torch.Tensor  # float32 [N, 3]
    noise: torch.Tensor | None  # float32 [N, 4, h, w]

    @property
    def size(self) -> int:
        """N, samples."""
        return int(self.latents.shape[0])

    def tensors(self) -> dict[str, torch.Tensor]:
        """By name; noise only where there is some."""
        named = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in named.items() if tensor is not None}


class RequestBatch:
    """Slots of one shape that step together; what is known before the first step is stacked and uploaded once."""

    def __init__(self, slots: Sequence[ImageRequest], *, batch_size: int | None = None) -> None:
        """`batch_size`: pad to this many samples, with copies of the last."""
        self.slots = tuple(slots)
        self._filled = (*self.slots, *self.slots[-1:] * ((batch_size or 0) - len(self.slots)))
        conditionings = [slot.conditioning for slot in self._filled]
        self._latents = torch.stack([slot.latents for slot in self._filled])
        self._guided_hint = torch.stack([one.guided_hint for one in conditionings]).repeat(2, 1, 1, 1)
        self._context = _by_half([one.context for one in conditionings])
        self._control_scales = _by_half([one.control_scales for one in conditionings])
        scales = np.array([slot.request.scale for slot in self._filled], dtype=np.float32)
        self._guidance = to_device(scales, self._latents.device)
        self._noisy = any(slot.request.eta > 0 for slot in self._filled)
        # float32 [steps, N, 4] until the first slot is finished, which ends the group.
        together = min(len(slot.to_come) for slot in self._filled)
        steps = np.stack([slot.to_come[:together] for slot in self._filled], axis=1)
        self._steps = to_device(steps, self._latents.device)
        self._index = 0

    def holds(self, slots: Sequence[ImageRequest]) -> bool:
        """Whether these very slots, in this order, are the group's."""
        return len(slots) == len(self.slots) and all(a is b for a, b in zip(slots, self.slots, strict=True))

    def batch(self) -> StepBatch:
        """The next step of every slot."""
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
        """Take the step's outcome, float32 [N, 4, h, w]."""
        self._latents = latents
        self._index += 1
        for slot, row in zip(self.slots, latents[: len(self.slots)].unbind(0), strict=True):
            slot.advance(row)

    def _noise(self) -> torch.Tensor | None:
        if not self._noisy:
            return None
        zero = torch.zeros(self._latents.shape[1:])
        drawn = [slot.noise for slot in self._filled]
        stacked = torch.stack([zero if noise is None else noise for noise in drawn])
        return to_device(stacked, self._latents.device)


def _by_half(pairs: Sequence[torch.Tensor]) -> torch.Tensor:
    """[(uncond, cond), ...] -> all uncond rows, then all cond rows."""
    return torch.stack(list(pairs), dim=1).flatten(0, 1)
