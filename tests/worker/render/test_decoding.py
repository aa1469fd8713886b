"""Pictures that are still on their way from the device while the loop goes on."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from jobs.errors import Requeued
from tests.worker.samples import sample_spec, started
from worker.fake import FakeDenoiser
from worker.render import ddim
from worker.render.batch import RequestBatch, StepBatch
from worker.render.decoding import Decoding
from worker.render.errors import DeviceLost
from worker.render.loop import RenderLoop
from worker.render.request import ImageRequest, ImageSpec
from worker.render.trajectory import Conditioning


class SlowDecoding(Decoding):
    """Pictures that arrive when `arrive` is set, as from a GPU; or an error in their place."""

    def __init__(self, images: torch.Tensor, arrive: threading.Event, error: Exception | None) -> None:
        super().__init__(images)
        self._arrive, self._error = arrive, error

    @property
    def arrived(self) -> bool:
        return self._arrive.is_set()

    def pictures(self) -> list[np.ndarray | None]:
        assert self._arrive.wait(10)
        if self._error is not None:
            raise self._error
        return super().pictures()


class SlowDenoiser(FakeDenoiser):
    """A FakeDenoiser whose pictures take their time."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(max_batch=1)
        self.arrive = threading.Event()
        self._error = error

    def decode(self, latents: torch.Tensor) -> Decoding:
        images = torch.nn.functional.interpolate(latents[:, :3] / 3, scale_factor=8)
        return SlowDecoding(images, self.arrive, self._error)


def spec(job_id: str, *, steps: int = 2, eta: float = 0.0, seed: int = 1) -> ImageSpec:
    return sample_spec(job_id=job_id, steps=steps, eta=eta, seed=seed)


def test_the_loop_goes_on_while_pictures_are_under_way() -> None:
    denoiser = SlowDenoiser()
    loop = RenderLoop(denoiser)
    first, second = loop.submit(spec("a")), loop.submit(spec("b", seed=2))
    for _ in range(3):  # two steps of the first, one of the second: only one runs at a time
        assert loop.step()
    assert not first.done()
    assert loop.stats().active == 1
    assert loop.step()
    assert not loop.step()
    denoiser.arrive.set()
    assert first.result(10).shape == second.result(10).shape == (64, 64, 3)
    assert loop.stats().images == 2


def test_a_stopping_loop_waits_for_pictures_under_way() -> None:
    denoiser = SlowDenoiser()
    loop = RenderLoop(denoiser)
    future = loop.submit(spec("a"))
    for _ in range(2):
        loop.step()
    stop = threading.Event()
    stop.set()
    threading.Timer(0.05, denoiser.arrive.set).start()
    loop.run(stop)
    assert future.done()
    assert future.result().shape == (64, 64, 3)


def test_a_device_lost_while_pictures_are_under_way_ends_the_loop_and_requeues_the_job() -> None:
    denoiser = SlowDenoiser(DeviceLost("CUDA error: an illegal memory access"))
    loop = RenderLoop(denoiser)
    future = loop.submit(spec("a"))
    for _ in range(2):
        loop.step()
    denoiser.arrive.set()
    with pytest.raises(Requeued, match="device is lost"):
        future.result(10)
    with pytest.raises(DeviceLost):
        loop.run(threading.Event())


def test_pixels_are_rounded_and_what_is_not_a_number_is_no_picture() -> None:
    images = torch.zeros(2, 3, 8, 8)
    images[0] = 0.99
    images[1, 0, 0, 0] = float("nan")
    bright, broken = Decoding(images).pictures()
    assert bright is not None
    assert (bright == 254).all()  # 253.725, rounded up
    assert broken is None


def running(seed: int, *, steps: int, eta: float = 0.0) -> ImageRequest:
    conditioning = Conditioning(torch.randn(8, 8, 8), torch.randn(2, 77, 4), torch.ones(2, 13))
    return started(spec(str(seed), steps=steps, eta=eta, seed=seed), conditioning)


def test_padding_changes_no_sample() -> None:
    def made() -> list[ImageRequest]:
        torch.manual_seed(0)
        return [running(1, steps=5), running(2, steps=3, eta=1.0), running(3, steps=7)]

    plain, padded = RequestBatch(made()), RequestBatch(made(), batch_size=4)
    for _ in range(3):
        for batch in (plain, padded):
            assert batch.next_step().size == (3 if batch is plain else 4)
            batch.advance(_stepped(batch.next_step()))
    for one, other in zip(plain.requests, padded.requests, strict=True):
        assert torch.equal(one.trajectory.latents, other.trajectory.latents)
        assert one.trajectory.index == other.trajectory.index == 3


def _stepped(batch: StepBatch) -> torch.Tensor:
    predicted = 0.1 * batch.latents + batch.guided_hint[batch.size :, :4] * batch.timestep.view(-1, 1, 1, 1) / 1000
    return ddim.step(batch.latents, predicted, coefficients=batch.coefficients, noise=batch.noise)


def test_a_batch_ends_with_its_first_finished_request() -> None:
    batch = RequestBatch([running(1, steps=5), running(2, steps=2)])
    seen = []
    for _ in range(2):
        step = batch.next_step()
        seen.append(step.timestep.tolist())
        batch.advance(step.latents)
    assert seen == [[801.0, 501.0], [601.0, 1.0]]
    assert [one.trajectory.finished for one in batch.requests] == [False, True]
