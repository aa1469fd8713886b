"""DDIM against diffusers' DDIMScheduler."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.noise_schedule import SD15, NoiseSchedule
from worker.render import ddim

SHAPE = (1, 4, 3, 2)
STEPS = st.integers(1, 999)
ETAS = st.just(0.0) | st.floats(1e-6, 1)


# What a model may say, one thing after the other, and some of them together.
SCHEDULES = {
    "SD1.5": SD15,
    "v_prediction": NoiseSchedule(prediction_type="v_prediction"),
    "sample": NoiseSchedule(prediction_type="sample"),
    "linear": NoiseSchedule(beta_schedule="linear"),
    "cosine": NoiseSchedule(beta_schedule="squaredcos_cap_v2"),
    "trained betas": NoiseSchedule(trained_betas=tuple(np.geomspace(0.0005, 0.02, 1000).tolist())),
    "zero SNR": NoiseSchedule(rescale_betas_zero_snr=True, prediction_type="v_prediction"),
    "zero SNR, trailing": NoiseSchedule(
        rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing"
    ),
    "zero SNR, sample": NoiseSchedule(
        rescale_betas_zero_snr=True, prediction_type="sample", timestep_spacing="linspace"
    ),
    "trailing": NoiseSchedule(timestep_spacing="trailing"),
    "linspace": NoiseSchedule(timestep_spacing="linspace"),
    "no offset": NoiseSchedule(steps_offset=0),
    "alpha one": NoiseSchedule(set_alpha_to_one=True),
    "no offset, alpha one": NoiseSchedule(steps_offset=0, set_alpha_to_one=True),
    "400 timesteps": NoiseSchedule(num_train_timesteps=400),
    "2000 timesteps": NoiseSchedule(num_train_timesteps=2000, timestep_spacing="trailing"),
}


@functools.cache
def diffusers_scheduler(noise: NoiseSchedule = SD15) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' remarks on each other
        from diffusers import DDIMScheduler

    return DDIMScheduler(**noise.model_dump(), clip_sample=False)


def trajectory_of_diffusers(
    noise: NoiseSchedule, latents: torch.Tensor, predictions: list[torch.Tensor], *, eta: float, seed: int
) -> Any:
    scheduler = diffusers_scheduler(noise)
    scheduler.set_timesteps(len(predictions))
    generator = torch.Generator().manual_seed(seed)
    for t, predicted in zip(scheduler.timesteps, predictions, strict=True):
        latents = scheduler.step(predicted, t, latents, eta=eta, generator=generator).prev_sample
    return latents


def our_trajectory(
    noise_schedule: NoiseSchedule, latents: torch.Tensor, predictions: list[torch.Tensor], *, eta: float, seed: int
) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = ddim.schedule(noise_schedule, len(predictions), eta).coefficients
    for predicted, row in zip(predictions, rows, strict=True):
        noise = torch.randn(SHAPE, generator=generator) if eta > 0 else None
        latents = ddim.step(latents, predicted, coefficients=torch.from_numpy(row)[None], noise=noise)
    return latents


@pytest.mark.parametrize("steps", [1, 2, 7, 20, 50, 333])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("noise", SCHEDULES.values(), ids=SCHEDULES)
def test_a_whole_trajectory_is_that_of_diffusers(noise: NoiseSchedule, steps: int, eta: float) -> None:
    torch.manual_seed(steps)
    latents = torch.randn(SHAPE)
    predictions = [torch.randn(SHAPE) for _ in range(steps)]
    expected = trajectory_of_diffusers(noise, latents, predictions, eta=eta, seed=5)
    ours = our_trajectory(noise, latents, predictions, eta=eta, seed=5)
    if expected.isfinite().all():
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    else:  # where the first step is all noise and eta is 1, diffusers takes the root of a rounding error below zero
        assert noise.rescale_betas_zero_snr
        assert eta == 1
        assert ours.isfinite().all()


@given(steps=st.integers(1, 399), noise=st.sampled_from(list(SCHEDULES.values())))
@settings(deadline=None)
def test_timesteps_are_those_of_diffusers_for_every_number_of_steps(steps: int, noise: NoiseSchedule) -> None:
    scheduler = diffusers_scheduler(noise)
    scheduler.set_timesteps(steps)
    expected = [timestep for timestep in scheduler.timesteps.tolist() if timestep >= 0]
    assert ddim.schedule(noise, steps, 0.0).timesteps.tolist() == expected


@given(steps=STEPS)
@settings(deadline=None)
def test_timesteps_of_sd15_are_those_of_diffusers_for_every_number_of_steps(steps: int) -> None:
    scheduler = diffusers_scheduler()
    scheduler.set_timesteps(steps)
    assert ddim.schedule(SD15, steps, 0.0).timesteps.tolist() == scheduler.timesteps.tolist()


@given(steps=st.integers(1, 1000))
@settings(deadline=None)
def test_trailing_steps_are_as_many_as_asked_for(steps: int) -> None:
    """diffusers adds a step at timestep -1 for some numbers, such as 61, by rounding."""
    timesteps = ddim.timesteps_of(SCHEDULES["trailing"], steps)
    assert len(timesteps) == steps
    assert timesteps.min() >= 0


@pytest.mark.parametrize("noise", SCHEDULES.values(), ids=SCHEDULES)
def test_alphas_are_those_of_diffusers(noise: NoiseSchedule) -> None:
    expected = diffusers_scheduler(noise).alphas_cumprod.numpy().astype(np.float64)
    assert np.array_equal(ddim.alphas_cumprod(noise), expected)


@given(steps=st.integers(1, 399), eta=ETAS, noise=st.sampled_from(list(SCHEDULES.values())))
@settings(deadline=None)
def test_coefficients_are_finite_for_every_schedule(steps: int, eta: float, noise: NoiseSchedule) -> None:
    schedule = ddim.schedule(noise, steps, eta)
    assert schedule.coefficients.shape == (schedule.steps, 3) == (steps, 3)
    assert np.isfinite(schedule.coefficients).all()
    assert (schedule.coefficients[:, 2] >= 0).all()


@given(steps=STEPS, eta=ETAS)
@settings(deadline=None)
def test_coefficients_are_finite_and_noise_comes_with_eta_alone(steps: int, eta: float) -> None:
    schedule = ddim.schedule(SD15, steps, eta)
    assert schedule.coefficients.shape == (schedule.steps, 3) == (steps, 3)
    assert np.isfinite(schedule.coefficients).all()
    assert (schedule.coefficients[:, 2] >= 0).all()
    assert bool(schedule.coefficients[:, 2].all()) == (eta > 0)
    assert (np.diff(schedule.timesteps) < 0).all()


def test_the_last_step_ends_at_the_first_alpha_of_training() -> None:
    # set_alpha_to_one=False: a little variance is left between timestep 1 and timestep 0.
    last = ddim.schedule(SD15, 20, 1.0).coefficients[-1]
    alphas = ddim.alphas_cumprod(SD15)
    variance = (1 - alphas[0]) / (1 - alphas[1]) * (1 - alphas[1] / alphas[0])
    assert last[2] == pytest.approx(np.sqrt(variance), rel=1e-5)


@pytest.mark.parametrize("steps", [-1, 0, 1000, 5000])
def test_steps_out_of_range_are_refused_with_the_range(steps: int) -> None:
    with pytest.raises(ValueError, match=f"1 to 999, not {steps}"):
        ddim.schedule(SD15, steps, 0.0)


@pytest.mark.parametrize(
    ("noise", "most"),
    [
        (NoiseSchedule(num_train_timesteps=10), 9),
        (NoiseSchedule(num_train_timesteps=10, steps_offset=0), 10),
        (NoiseSchedule(num_train_timesteps=10, timestep_spacing="trailing"), 10),
    ],
)
def test_a_model_with_few_timesteps_takes_few_steps(noise: NoiseSchedule, most: int) -> None:
    assert ddim.schedule(noise, most, 0.0).steps == most
    with pytest.raises(ValueError, match=f"1 to {most}, not {most + 1}"):
        ddim.schedule(noise, most + 1, 0.0)


@given(st.lists(st.tuples(st.integers(1, 60), ETAS), min_size=1, max_size=5), st.integers(0, 2**16))
@settings(deadline=None, max_examples=40)
def test_rows_of_different_schedules_do_not_touch_each_other(rows: list[tuple[int, float]], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents, predicted, noise = torch.randn((3, len(rows), *SHAPE[1:]), generator=generator)
    schedules = [ddim.schedule(SD15, steps, eta) for steps, eta in rows]
    coefficients = torch.from_numpy(np.stack([one.coefficients[seed % one.steps] for one in schedules]))
    together = ddim.step(latents, predicted, coefficients=coefficients, noise=noise)
    for i in range(len(rows)):
        row = slice(i, i + 1)
        alone = ddim.step(latents[row], predicted[row], coefficients=coefficients[row], noise=noise[row])
        assert torch.equal(alone, together[row])


def test_no_noise_is_the_same_as_noise_without_eta() -> None:
    latents, predicted, noise = torch.randn((3, 2, 4, 3, 2))
    coefficients = torch.from_numpy(ddim.schedule(SD15, 7, 0.0).coefficients[2:4])
    without = ddim.step(latents, predicted, coefficients=coefficients, noise=None)
    assert torch.equal(without, ddim.step(latents, predicted, coefficients=coefficients, noise=noise))


def test_guidance_is_a_scale_a_row_from_the_unconditional_to_the_conditional_half() -> None:
    unconditional, conditional = torch.randn((2, 3, 4, 2, 2))
    guided = ddim.guide(torch.cat([unconditional, conditional]), torch.tensor([0.0, 1.0, 9.0]))
    assert torch.equal(guided[0], unconditional[0])
    torch.testing.assert_close(guided[1], conditional[1])
    torch.testing.assert_close(guided[2], 9 * conditional[2] - 8 * unconditional[2])
