"""SampleRequest -> Slot (a sample being denoised) -> StepBatch (one engine call)."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch

from worker import ddim

CONTROLS = 13


@dataclass(frozen=True, eq=False)
class SampleRequest:
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


class Slot:
    """A sample being denoised: where it is in its schedule, its latents between engine calls, and its own noise.

    Noise: one CPU generator a sample, float32, the initial latent first and then one draw a step where eta > 0, so the
    picture is the same whatever the batch, the backend or the GPU.
    """

    def __init__(self, request: SampleRequest, future: Future[np.ndarray], *, conditioning: Conditioning) -> None:
        self.request = request
        self.future = future
        self.conditioning = conditioning
        self.schedule = ddim.schedule(request.steps, request.eta)
        self.index = 0  # of the next step
        self._generator = torch.Generator("cpu").manual_seed(request.seed)
        self.latents = self._draw().to(conditioning.guided_hint.device)  # float32 [4, h, w]
        self._noise: torch.Tensor | None = None

    @property
    def finished(self) -> bool:
        """Every step was taken."""
        return self.index == self.schedule.steps

    @property
    def timestep(self) -> int:
        """Of the next step."""
        return int(self.schedule.timesteps[self.index])

    @property
    def coefficients(self) -> np.ndarray:
        """float32 [3] of the next step."""
        row: np.ndarray = self.schedule.coefficients[self.index]
        return row

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
    """One engine call: N samples, R = 2N rows, unconditional half first. Tensors are on the engines' device."""

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


class Group:
    """Slots of one shape that step together; what does not change from step to step is stacked once."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)
        conditionings = [slot.conditioning for slot in self.slots]
        self._latents = torch.stack([slot.latents for slot in self.slots])
        self._guided_hint = torch.stack([one.guided_hint for one in conditionings]).repeat(2, 1, 1, 1)
        self._context = _by_half([one.context for one in conditionings])
        self._control_scales = _by_half([one.control_scales for one in conditionings])
        self._guidance = self._on_device(np.array([slot.request.scale for slot in self.slots], dtype=np.float32))
        self._noisy = any(slot.request.eta > 0 for slot in self.slots)

    def holds(self, slots: Sequence[Slot]) -> bool:
        """Whether these very slots, in this order, are the group's."""
        return len(slots) == len(self.slots) and all(a is b for a, b in zip(slots, self.slots, strict=True))

    def batch(self) -> StepBatch:
        """The next step of every slot."""
        timesteps = np.array([slot.timestep for slot in self.slots], dtype=np.float32)
        coefficients = np.stack([slot.coefficients for slot in self.slots])
        return StepBatch(
            latents=self._latents,
            guided_hint=self._guided_hint,
            context=self._context,
            control_scales=self._control_scales,
            guidance=self._guidance,
            timestep=self._on_device(timesteps),
            coefficients=self._on_device(coefficients),
            noise=self._noise(),
        )

    def advance(self, latents: torch.Tensor) -> None:
        """Take the step's outcome, float32 [N, 4, h, w]."""
        self._latents = latents
        for slot, row in zip(self.slots, latents.unbind(0), strict=True):
            slot.advance(row)

    def _noise(self) -> torch.Tensor | None:
        if not self._noisy:
            return None
        zero = torch.zeros(self._latents.shape[1:])
        drawn = [slot.noise for slot in self.slots]
        return torch.stack([zero if noise is None else noise for noise in drawn]).to(self._latents.device)

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(array).to(self._latents.device)


def _by_half(pairs: Sequence[torch.Tensor]) -> torch.Tensor:
    """[(uncond, cond), ...] -> all uncond rows, then all cond rows."""
    return torch.stack(list(pairs), dim=1).flatten(0, 1)
