"""Trajectory: one sample's latents on their way through its DDIM schedule; and Conditioning, what steers them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from worker.render import ddim
from worker.render.device import to_device


@dataclass(frozen=True, eq=False)
class Conditioning:
    """A sample's encoded prompts and edges. Where there are two rows, the unconditional one is first."""

    guided_hint: torch.Tensor  # [C, h, w]
    context: torch.Tensor  # [2, 77 * chunks, width]
    control_scales: torch.Tensor  # [2, 13]

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(4, h, w)."""
        return 4, int(self.guided_hint.shape[-2]), int(self.guided_hint.shape[-1])


class Trajectory:
    """A sample's latents between engine calls, the steps that remain, and its own noise.

    Each sample has one CPU generator. It draws float32: the initial latent first, then one draw a step where eta > 0.
    So the picture is the same whatever the batch, the backend or the GPU.
    """

    def __init__(self, conditioning: Conditioning, schedule: ddim.Schedule, *, seed: int, eta: float) -> None:
        self.conditioning = conditioning
        self.schedule = schedule
        self.index = 0  # of the next step
        self._eta = eta
        self._generator = torch.Generator("cpu").manual_seed(seed)
        self.latents = to_device(self._draw(), conditioning.guided_hint.device)  # float32 [4, h, w]
        self._noise: torch.Tensor | None = None

    @property
    def finished(self) -> bool:
        """Every step was taken."""
        return self.index == self.schedule.steps

    @property
    def remaining(self) -> np.ndarray:
        """Timestep and DDIM coefficients of every step that remains: float32 [steps left, 4]."""
        timesteps = self.schedule.timesteps[self.index :, None].astype(np.float32)
        return np.concatenate([timesteps, self.schedule.coefficients[self.index :]], axis=1)

    @property
    def noise(self) -> torch.Tensor | None:
        """float32 [4, h, w] for the next step, None where eta is 0. A step that is repeated gets the same noise."""
        if self._noise is None and self._eta > 0:
            self._noise = self._draw()
        return self._noise

    def advance(self, latents: torch.Tensor) -> None:
        """Take the result of the step, float32 [4, h, w]."""
        self.latents = latents
        self._noise = None
        self.index += 1

    def _draw(self) -> torch.Tensor:
        return torch.randn(self.conditioning.latent_shape, generator=self._generator, dtype=torch.float32)
