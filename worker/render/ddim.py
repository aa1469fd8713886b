"""DDIM as pure functions: nothing here counts steps, knows the device or belongs to a request.

Song et al., "Denoising Diffusion Implicit Models" (2020), equation 12, with the noise schedule of the model that is
rendered (engines/noise_schedule.py). The formulas are those of diffusers' DDIMScheduler. One step is linear in its
inputs, so three coefficients a row describe it, whatever the model predicts:

    x_prev = sample * x + prediction * model_output + noise * z

This lets rows at different steps of different schedules share one batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from engines.noise_schedule import NoiseSchedule

LARGEST_BETA = 0.999  # of the cosine schedule
COSINE_OFFSET = 0.008


@dataclass(frozen=True, eq=False)
class Schedule:
    """All steps of one (ddim_steps, eta): timesteps int64 [S], noisiest first, and coefficients float32 [S, 3]."""

    timesteps: np.ndarray
    coefficients: np.ndarray  # columns: sample, prediction, noise

    @property
    def steps(self) -> int:
        """The number of steps, S."""
        return len(self.timesteps)


@lru_cache(maxsize=256)
def schedule(noise: NoiseSchedule, steps: int, eta: float) -> Schedule:
    """The schedule of `steps` steps; eta 0 is deterministic, eta 1 has DDPM's variance.

    Raises:
        ValueError: more steps than the model can take, or fewer than 1; the sentence gives the range.
    """
    timesteps = timesteps_of(noise, steps)
    alphas = alphas_cumprod(noise)
    final = 1.0 if noise.set_alpha_to_one else float(alphas[0])
    alpha = alphas[timesteps]
    previous = timesteps - noise.num_train_timesteps // steps
    alpha_previous = np.where(previous >= 0, alphas[np.maximum(previous, 0)], final)
    variance = (1 - alpha_previous) / (1 - alpha) * (1 - alpha / alpha_previous)
    sigma = eta * np.sqrt(np.maximum(variance, 0))
    direction = np.sqrt(np.maximum(1 - alpha_previous - sigma**2, 0))
    sample, prediction = _of_the_prediction(noise.prediction_type, alpha, alpha_previous, direction)
    coefficients = np.stack([sample, prediction, sigma], axis=1).astype(np.float32)
    return Schedule(timesteps, coefficients)


def _of_the_prediction(
    kind: str, alpha: np.ndarray, alpha_previous: np.ndarray, direction: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The coefficients of x and of the model's output in sqrt(alpha_previous) * x_0 + direction * epsilon.

    x_0 and epsilon follow from x and from what the model predicts; v is that of Salimans and Ho, "Progressive
    Distillation for Fast Sampling of Diffusion Models" (2022), appendix D.
    """
    signal, spread = np.sqrt(alpha), np.sqrt(1 - alpha)
    if kind == "epsilon":  # x_0 = (x - spread * epsilon) / signal
        sample = np.sqrt(alpha_previous / alpha)
        return sample, direction - sample * spread
    if kind == "v_prediction":  # x_0 = signal * x - spread * v, epsilon = signal * v + spread * x
        to_image = np.sqrt(alpha_previous)
        return to_image * signal + direction * spread, direction * signal - to_image * spread
    sample = direction / spread  # epsilon = (x - signal * x_0) / spread
    return sample, np.sqrt(alpha_previous) - sample * signal


def timesteps_of(noise: NoiseSchedule, steps: int) -> np.ndarray:
    """int64 [steps], noisiest first: Lin et al., "Common Diffusion Noise Schedules" (2023), table 2.

    With trailing spacing and some numbers of steps, such as 61, diffusers' rounding adds a step at timestep -1, which
    reads the noise level of the last timestep. That step is left out here.

    Raises:
        ValueError: more steps than the model can take, or fewer than 1; the sentence gives the range.
    """
    trained = noise.num_train_timesteps
    if not 1 <= steps <= trained:
        raise ValueError(_out_of_range(noise, steps))
    if noise.timestep_spacing == "linspace":
        timesteps = np.linspace(0, trained - 1, steps).round().astype(np.int64)
    elif noise.timestep_spacing == "trailing":
        timesteps = np.round(np.arange(trained, 0, -(trained / steps)))[:steps][::-1].astype(np.int64) - 1
    else:
        timesteps = np.arange(steps, dtype=np.int64) * (trained // steps) + noise.steps_offset
    if timesteps[-1] >= trained:
        raise ValueError(_out_of_range(noise, steps))
    return timesteps[::-1].copy()


def _out_of_range(noise: NoiseSchedule, steps: int) -> str:
    return f"ddim_steps must be 1 to {_most_steps(noise)}, not {steps}"


def _most_steps(noise: NoiseSchedule) -> int:
    """The largest number of steps from which on every smaller one fits as well."""
    trained = noise.num_train_timesteps
    if noise.timestep_spacing != "leading":
        return trained
    last = ((steps - 1) * (trained // steps) + noise.steps_offset for steps in range(1, trained + 1))
    return next((steps for steps, timestep in enumerate(last) if timestep >= trained), trained)


@lru_cache(maxsize=16)
def alphas_cumprod(noise: NoiseSchedule) -> np.ndarray:
    """float64 [T]: products of 1 - beta, computed in float32 as when the models were trained."""
    products: np.ndarray = torch.cumprod(1.0 - betas(noise), dim=0).numpy().astype(np.float64)
    return products


def betas(noise: NoiseSchedule) -> torch.Tensor:
    """float32 [T]: the variance of the noise that each training step adds."""
    start, end, number = noise.beta_start, noise.beta_end, noise.num_train_timesteps
    if noise.trained_betas is not None:
        values = torch.tensor(noise.trained_betas, dtype=torch.float32)
    elif noise.beta_schedule == "linear":
        values = torch.linspace(start, end, number, dtype=torch.float32)
    elif noise.beta_schedule == "scaled_linear":
        values = torch.linspace(start**0.5, end**0.5, number, dtype=torch.float32) ** 2
    else:
        values = _cosine_betas(number)
    return _with_zero_terminal_snr(values) if noise.rescale_betas_zero_snr else values


def _cosine_betas(number: int) -> torch.Tensor:
    """Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models" (2021), equation 17."""

    def level(i: int) -> float:
        return math.cos((i / number + COSINE_OFFSET) / (1 + COSINE_OFFSET) * math.pi / 2) ** 2

    values = [min(1 - level(i + 1) / level(i), LARGEST_BETA) for i in range(number)]
    return torch.tensor(values, dtype=torch.float32)


def _with_zero_terminal_snr(values: torch.Tensor) -> torch.Tensor:
    """Lin et al. (2023), algorithm 1: the last timestep holds nothing but noise, the first one is unchanged."""
    roots = torch.cumprod(1.0 - values, dim=0).sqrt()
    first, last = roots[0].clone(), roots[-1].clone()
    squares = ((roots - last) * (first / (first - last))) ** 2
    return 1 - torch.cat([squares[:1], squares[1:] / squares[:-1]])


def step(
    latents: torch.Tensor, model_output: torch.Tensor, *, coefficients: torch.Tensor, noise: torch.Tensor | None
) -> torch.Tensor:
    """One step back in time, row by row.

    Args:
        latents: float32 [N, 4, h, w].
        model_output: the guided prediction, the same shape.
        coefficients: float32 [N, 3], rows of `Schedule.coefficients`.
        noise: float32 [N, 4, h, w], or None where no row has eta > 0.
    """
    sample, prediction, sigma = (column.view(-1, 1, 1, 1) for column in coefficients.unbind(dim=1))
    previous = sample * latents + prediction * model_output
    return previous if noise is None else previous + sigma * noise


def guide(model_output: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance (Ho and Salimans, 2022): [2N, 4, h, w], unconditional half first -> [N, 4, h, w].

    `scale` is float32 [N]; 1 gives the conditional prediction, 0 the unconditional one.
    """
    unconditional, conditional = model_output.chunk(2)
    return unconditional + scale.view(-1, 1, 1, 1) * (conditional - unconditional)
