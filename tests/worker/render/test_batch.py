"""Trajectories and the batches they make: noise by seed alone, rows in their order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engines.noise_schedule import SD15
from tests.worker.samples import running_request, sample_spec
from worker.render import ddim
from worker.render.batch import RequestBatch
from worker.render.trajectory import Trajectory


def draws(seed: int, number: int) -> list[torch.Tensor]:
    """One CPU generator a sample, float32, the initial latent first, then one draw a step."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return [torch.randn((1, 4, 8, 8), generator=generator)[0] for _ in range(number)]


def trajectory(number: int = 0, **values: float) -> Trajectory:
    return running_request(number, **values).trajectory


def test_the_initial_latent_is_the_seed_s_first_draw() -> None:
    one = trajectory(1, seed=42)
    assert one.latents.dtype == torch.float32
    assert torch.equal(one.latents, draws(42, 1)[0])


def test_with_eta_every_step_has_the_next_draw_and_a_step_tried_again_has_the_same() -> None:
    one = trajectory(1, seed=42, eta=0.5, steps=3)
    for expected in draws(42, 4)[1:]:
        first, again = one.noise, one.noise
        assert first is not None
        assert first is again
        assert torch.equal(first, expected)
        one.advance(one.latents)
    assert one.finished


def test_without_eta_nothing_is_drawn_after_the_initial_latent() -> None:
    one = trajectory(1, eta=0.0)
    assert one.noise is None


def test_a_sample_is_finished_after_its_own_number_of_steps() -> None:
    one = trajectory(1, steps=2)
    assert one.remaining[:, 0].tolist() == [501.0, 1.0]
    one.advance(torch.ones(4, 8, 8))
    assert not one.finished
    assert one.remaining[:, 0].tolist() == [1.0]
    assert np.array_equal(one.remaining[:, 1:], ddim.schedule(SD15, 2, 0.0).coefficients[1:])
    one.advance(torch.zeros(4, 8, 8))
    assert one.finished
    assert len(one.remaining) == 0


def test_a_request_knows_its_shape_in_pixels() -> None:
    assert sample_spec(size=(128, 192)).shape == (128, 192)


def test_a_batch_has_all_unconditional_rows_first() -> None:
    requests = [running_request(number, scale=float(number)) for number in (1, 2, 3)]
    batch = RequestBatch(requests).next_step()
    assert batch.size == 3
    assert batch.context[:, 0, 0].tolist() == [-1, -2, -3, 1, 2, 3]
    assert batch.guided_hint[:, 0, 0, 0].tolist() == [101, 102, 103] * 2
    assert batch.control_scales[:, 0].tolist() == [11, 12, 13, 21, 22, 23]
    assert batch.guidance.tolist() == [1, 2, 3]
    assert all(torch.equal(row, one.trajectory.latents) for row, one in zip(batch.latents, requests, strict=True))


def test_a_batch_shares_steps_of_different_schedules() -> None:
    early, late = running_request(1, steps=4), running_request(2, steps=10)
    for _ in range(6):
        late.trajectory.advance(late.trajectory.latents)
    batch = RequestBatch([early, late]).next_step()
    assert batch.timestep.tolist() == [751.0, 301.0]
    expected = np.stack([ddim.schedule(SD15, 4, 0.0).coefficients[0], ddim.schedule(SD15, 10, 0.0).coefficients[6]])
    assert np.array_equal(batch.coefficients.numpy(), expected)


def test_only_a_batch_with_eta_has_noise_and_rows_without_eta_get_zeros() -> None:
    assert RequestBatch([running_request(1), running_request(2)]).next_step().noise is None
    assert "noise" not in RequestBatch([running_request(1)]).next_step().tensors()
    noise = RequestBatch([running_request(1), running_request(2, eta=1.0)]).next_step().noise
    assert noise is not None
    assert not noise[0].any()
    assert torch.equal(noise[1], draws(2, 2)[1])


def test_a_step_tried_again_in_another_batch_has_the_same_noise() -> None:
    one = running_request(3, eta=1.0)
    first, again = RequestBatch([one, running_request(4)]).next_step().noise, RequestBatch([one]).next_step().noise
    assert first is not None
    assert again is not None
    assert torch.equal(first[0], again[0])


def test_padding_is_dropped_when_a_batch_advances() -> None:
    requests = [running_request(1), running_request(2)]
    batch = RequestBatch(requests, batch_size=4)
    assert batch.next_step().size == 4
    batch.advance(torch.arange(4.0).view(4, 1, 1, 1).expand(4, 4, 8, 8))
    assert [float(one.trajectory.latents[0, 0, 0]) for one in requests] == [0.0, 1.0]
    assert [one.trajectory.index for one in requests] == [1, 1]


def test_a_batch_holds_its_own_requests_in_their_order_and_no_others() -> None:
    one, two = running_request(1), running_request(2)
    batch = RequestBatch([one, two])
    assert batch.holds([one, two])
    assert not batch.holds([two, one])
    assert not batch.holds([one])
    assert not batch.holds([one, running_request(2)])


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
@settings(deadline=None, max_examples=30)
def test_a_batch_can_step_until_its_first_request_is_finished(steps: list[int]) -> None:
    requests = [running_request(number, steps=count) for number, count in enumerate(steps)]
    batch = RequestBatch(requests)
    for index in range(min(steps)):
        expected = [float(ddim.schedule(SD15, count, 0.0).timesteps[index]) for count in steps]
        assert batch.next_step().timestep.tolist() == expected
        batch.advance(batch.next_step().latents)
    assert any(one.trajectory.finished for one in requests)
    with pytest.raises(IndexError):
        batch.next_step()


def test_a_step_that_returns_too_few_rows_is_an_error() -> None:
    batch = RequestBatch([running_request(0), running_request(1)])
    batch.next_step()
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        batch.advance(torch.zeros(1, 4, 8, 8))
