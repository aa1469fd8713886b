"""Pictures that are still under way when the loop goes on."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import numpy as np
import pytest
import torch

from jobs.errors import Requeued
from worker.render import ddim
from worker.render.decoding import Decoding
from worker.render.denoiser import FakeDenoiser
from worker.render.device import DeviceLost
from worker.render.loop import RenderLoop
from worker.render.request import Conditioning, ImageRequest, ImageSpec, RequestBatch, StepBatch


class SlowDecoding(Decoding):
    """Pictures that arrive when `arrive` is set, as from a GPU; or an error in their place."""

    def __init__(self, images: torch.Tensor, arrive: threading.Event, error: Exception | None) -> None:
        super().__init__(images)
        self._arrive, self._error = arrive, error

    @property
    def here(self) -> bool:
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


def request(job_id: str, *, steps: int = 2, eta: float = 0.0, seed: int = 1) -> ImageSpec:
    ids = np.zeros(77, np.int64)
    return ImageSpec(
        job_id=job_id,
        sample=0,
        edges=np.zeros((64, 64), np.uint8),
        cond_ids=ids,
        uncond_ids=ids,
        seed=seed,
        steps=steps,
        eta=eta,
        scale=7.0,
        cond_control_scales=(1.0,) * 13,
        uncond_control_scales=(1.0,) * 13,
    )


def test_the_loop_goes_on_while_pictures_are_under_way() -> None:
    denoiser = SlowDenoiser()
    loop = RenderLoop(denoiser)
    first, second = loop.submit(request("a")), loop.submit(request("b", seed=2))
    for _ in range(3):  # two steps of the first, one of the second: there is one slot
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
    future = loop.submit(request("a"))
    for _ in range(2):
        loop.step()
    stop = threading.Event()
    stop.set()
    threading.Timer(0.05, denoiser.arrive.set).start()
    loop.run(stop)
    assert future.done()
    assert future.result().shape == (64, 64, 3)


def test_a_device_lost_while_pictures_are_under_way_ends_the_loop_and_hands_the_job_back() -> None:
    denoiser = SlowDenoiser(DeviceLost("CUDA error: an illegal memory access"))
    loop = RenderLoop(denoiser)
    future = loop.submit(request("a"))
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


def slot(seed: int, *, steps: int, eta: float = 0.0) -> ImageRequest:
    conditioning = Conditioning(torch.randn(8, 8, 8), torch.randn(2, 77, 4), torch.ones(2, 13))
    return ImageRequest(request(str(seed), steps=steps, eta=eta, seed=seed), Future(), conditioning=conditioning)


def test_padding_changes_no_sample() -> None:
    def made() -> list[ImageRequest]:
        torch.manual_seed(0)
        return [slot(1, steps=5), slot(2, steps=3, eta=1.0), slot(3, steps=7)]

    plain, padded = RequestBatch(made()), RequestBatch(made(), batch_size=4)
    for _ in range(3):
        for group in (plain, padded):
            assert group.batch().size == (3 if group is plain else 4)
            group.advance(_stepped(group.batch()))
    for one, other in zip(plain.slots, padded.slots, strict=True):
        assert torch.equal(one.latents, other.latents)
        assert one.index == other.index == 3


def _stepped(batch: StepBatch) -> torch.Tensor:
    predicted = 0.1 * batch.latents + batch.guided_hint[batch.size :, :4] * batch.timestep.view(-1, 1, 1, 1) / 1000
    return ddim.step(batch.latents, predicted, coefficients=batch.coefficients, noise=batch.noise)


def test_a_group_ends_with_its_first_finished_slot() -> None:
    group = RequestBatch([slot(1, steps=5), slot(2, steps=2)])
    seen = []
    for _ in range(2):
        batch = group.batch()
        seen.append(batch.timestep.tolist())
        group.advance(batch.latents)
    assert seen == [[801.0, 501.0], [601.0, 1.0]]
    assert [one.finished for one in group.slots] == [False, True]
