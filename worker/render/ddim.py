"""DDIM as pure functions: nothing here counts steps, knows the device or belongs to a request.

Song et al., "Denoising Diffusion Implicit Models" (2020), equation 12, with the schedule of Stable Diffusion: 1000
training steps, scaled-linear betas 0.00085..0.012, uniform timesteps with offset 1, alphas_cumprod[0] as final alpha.
One step is linear in its inputs, so three coefficients a row describe it:

    x_prev = sample * x + noise_pred * eps + noise * z

This lets rows at different steps of different schedules share one batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

TRAINING_STEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012
STEPS_OFFSET = 1


@dataclass(frozen=True, eq=False)
class Schedule:
    """All steps of one (ddim_steps, eta): timesteps int64 [S], noisiest first, and coefficients float32 [S, 3]."""

    timesteps: np.ndarray
    coefficients: np.ndarray  # columns: sample, noise_pred, noise

    @property
    def steps(self) -> int:
        """S."""
        return len(self.timesteps)


@lru_cache(maxsize=256)
def schedule(steps: int, eta: float) -> Schedule:
    """The schedule of `steps` uniform steps; eta 0 is deterministic, eta 1 has DDPM's variance.

    Raises:
        ValueError: steps outside 1..999 (1000 would index past the last training step).
    """
    if not 1 <= steps < TRAINING_STEPS:
        raise ValueError(f"ddim_steps must be 1 to {TRAINING_STEPS - 1}, not {steps}")
    ratio = TRAINING_STEPS // steps
    timesteps = np.arange(steps, dtype=np.int64)[::-1] * ratio + STEPS_OFFSET
    alphas = alphas_cumprod()
    alpha = alphas[timesteps]
    previous = timesteps - ratio
    alpha_previous = np.where(previous >= 0, alphas[np.maximum(previous, 0)], alphas[0])
    variance = (1 - alpha_previous) / (1 - alpha) * (1 - alpha / alpha_previous)
    sigma = eta * np.sqrt(variance)
    sample = np.sqrt(alpha_previous / alpha)
    noise_pred = np.sqrt(1 - alpha_previous - sigma**2) - sample * np.sqrt(1 - alpha)
    coefficients = np.stack([sample, noise_pred, sigma], axis=1).astype(np.float32)
    return Schedule(timesteps.copy(), coefficients)


@lru_cache(maxsize=1)
def alphas_cumprod() -> np.ndarray:
    """float64 [1000]: products of 1 - beta, computed in float32 as when the models were trained."""
    betas = torch.linspace(BETA_START**0.5, BETA_END**0.5, TRAINING_STEPS, dtype=torch.float32) ** 2
    products: np.ndarray = torch.cumprod(1.0 - betas, dim=0).numpy().astype(np.float64)
    return products


def step(
    latents: torch.Tensor, noise_pred: torch.Tensor, *, coefficients: torch.Tensor, noise: torch.Tensor | None
) -> torch.Tensor:
    """One step back in time, row by row.

    Args:
        latents: float32 [N, 4, h, w].
        noise_pred: the guided prediction, the same shape.
        coefficients: float32 [N, 3], rows of `Schedule.coefficients`.
        noise: float32 [N, 4, h, w], or None where no row has eta > 0.
    """
    sample, predicted, sigma = (column.view(-1, 1, 1, 1) for column in coefficients.unbind(dim=1))
    previous = sample * latents + predicted * noise_pred
    return previous if noise is None else previous + sigma * noise


def guide(noise_pred: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022): [2N, 4, h, w], unconditional half first -> [N, 4, h, w].

    `scale` is float32 [N]; 1 gives the conditional prediction, 0 the unconditional one.
    """
    unconditional, conditional = noise_pred.chunk(2)
    return unconditional + scale.view(-1, 1, 1, 1) * (conditional - unconditional)
