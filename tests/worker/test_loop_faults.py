"""What becomes of samples when memory does not suffice, engines fail or the device is lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch

from jobs.errors import HandedBack, OutOfMemory, RenderFailed
from tests.worker.recording import RecordingDenoiser, alone, ask, run_out, submitted
from worker.denoiser import FakeDenoiser
from worker.device import DeviceLost, DeviceOutOfMemory
from worker.loop import RenderLoop

# -- memory that does not suffice -------------------------------------------------------------------------------------


def memory_for(samples: int, *, in_calls: str) -> Callable[[str, int], None]:
    """A device that takes so many samples at once."""

    def before(name: str, size: int) -> None:
        if name == in_calls and size > samples:
            raise DeviceOutOfMemory("CUDA out of memory")

    return before


@pytest.mark.parametrize("fitting", [1, 2, 3])
def test_a_batch_that_does_not_fit_is_halved_and_draws_the_same(fitting: int) -> None:
    denoiser = RecordingDenoiser(max_batch=8, before=memory_for(fitting, in_calls="step"))
    loop = RenderLoop(denoiser)
    futures = submitted(loop, "abcdefgh")
    run_out(loop)
    assert max(denoiser.sizes("step")) == {1: 1, 2: 2, 3: 2}[fitting]
    for name, future in zip("abcdefgh", futures, strict=True):
        assert np.array_equal(future.result(0), alone(name))


def test_a_halved_batch_keeps_the_noise_that_was_drawn_for_it() -> None:
    """eta > 0: the step that failed had drawn already, and is done again with the same noise."""
    denoiser = RecordingDenoiser(max_batch=4, before=memory_for(2, in_calls="step"))
    loop, single = RenderLoop(denoiser), RenderLoop(FakeDenoiser())
    requests = [ask(name, eta=1.0) for name in "abcd"]
    futures = [loop.submit(request) for request in requests]
    expected = [single.submit(request) for request in requests]
    run_out(loop)
    run_out(single)
    for future, other in zip(futures, expected, strict=True):
        assert np.array_equal(future.result(0), other.result(0))


@pytest.mark.parametrize("call", ["encode_hint", "decode"])
def test_encoding_and_decoding_are_halved_until_they_fit(call: str) -> None:
    denoiser = RecordingDenoiser(max_batch=4, before=memory_for(1, in_calls=call))
    loop = RenderLoop(denoiser)
    futures = submitted(loop, "abcd")
    run_out(loop)
    assert denoiser.sizes(call) == [1, 1, 1, 1]
    for name, future in zip("abcd", futures, strict=True):
        assert np.array_equal(future.result(0), alone(name))


@pytest.mark.parametrize("call", ["encode_hint", "step", "decode"])
def test_a_sample_that_does_not_even_fit_alone_fails_with_advice(call: str) -> None:
    loop = RenderLoop(RecordingDenoiser(max_batch=2, before=memory_for(0, in_calls=call)))
    futures = submitted(loop, "abc")
    run_out(loop)
    for future in futures:
        with pytest.raises(OutOfMemory, match=r"image_resolution.*RENDER_LOW_VRAM"):
            future.result(0)


def test_one_shape_short_of_memory_leaves_the_others_their_batches() -> None:
    def before(name: str, size: int) -> None:
        if name == "step" and size > 1 and denoiser.wide:
            raise DeviceOutOfMemory("CUDA out of memory")

    class Wide(RecordingDenoiser):
        wide = False

        def step(self, batch):  # type: ignore[no-untyped-def]
            self.wide = batch.latents.shape[3] > 8
            return super().step(batch)

    denoiser = Wide(max_batch=4, before=before)
    loop = RenderLoop(denoiser)
    submitted(loop, "abcd", steps=2)
    submitted(loop, "efgh", steps=2, size=(64, 128))
    run_out(loop)
    by_shape = list(zip(denoiser.shapes, denoiser.sizes("step"), strict=True))
    assert {size for shape, size in by_shape if shape == (8, 8)} == {4}
    assert {size for shape, size in by_shape if shape == (8, 16)} == {1}


# -- errors -----------------------------------------------------------------------------------------------------------


def failing_at(call: str, number: int, error: Exception) -> Callable[[str, int], None]:
    """Raises in the n-th call of one kind, from 1."""
    seen = 0

    def before(name: str, size: int) -> None:
        nonlocal seen
        seen += name == call
        if name == call and seen == number:
            raise error

    return before


@pytest.mark.parametrize(
    ("call", "doing"),
    [("encode_text", "encoding"), ("encode_hint", "encoding"), ("step", "denoising"), ("decode", "decoding")],
)
def test_a_batch_that_fails_fails_its_samples_and_no_others(call: str, doing: str) -> None:
    denoiser = RecordingDenoiser(max_batch=2, before=failing_at(call, 1, ValueError("bad engine")))
    loop = RenderLoop(denoiser)
    futures = submitted(loop, "abcd")
    run_out(loop)
    for future in futures[:2]:
        with pytest.raises(RenderFailed, match=rf"{doing}.*ValueError: bad engine"):
            future.result(0)
    for name, future in zip("cd", futures[2:], strict=True):
        assert np.array_equal(future.result(0), alone(name))


def test_values_that_are_no_numbers_fail_their_own_sample_only() -> None:
    class Broken(FakeDenoiser):
        def decode(self, latents):  # type: ignore[no-untyped-def]
            latents = latents.clone()
            latents[0] = torch.nan
            return super().decode(latents)

    loop = RenderLoop(Broken())
    first, second = submitted(loop, "ab")
    run_out(loop)
    with pytest.raises(RenderFailed, match="engines verify"):
        first.result(0)
    assert np.array_equal(second.result(0), alone("b"))
    assert loop.stats().images == 1


@pytest.mark.parametrize("call", ["encode_text", "step", "decode"])
def test_a_lost_device_ends_the_loop_and_every_sample_goes_back(call: str) -> None:
    denoiser = RecordingDenoiser(max_batch=2, before=failing_at(call, 1, DeviceLost("CUDA error")))
    loop = RenderLoop(denoiser)
    futures = submitted(loop, "abcd") + submitted(loop, "ef", size=(64, 128))
    with pytest.raises(DeviceLost):
        loop.run(threading.Event())
    errors = [future.exception(0) for future in futures]
    assert all(isinstance(error, HandedBack) for error in errors)
    blamed = [error for error in errors if isinstance(error, HandedBack) and not error.blameless]
    assert 1 <= len(blamed) <= 2  # those whose call it was; they are counted as attempts


def test_a_device_lost_in_the_second_half_of_a_halved_call_leaves_no_future_open() -> None:
    def before(name: str, size: int) -> None:
        if name == "decode" and size > 1:
            raise DeviceOutOfMemory("CUDA out of memory")
        if name == "decode":
            raise DeviceLost("CUDA error")

    loop = RenderLoop(RecordingDenoiser(before=before))
    futures = submitted(loop, "abcd")
    with pytest.raises(DeviceLost):
        loop.run(threading.Event())
    assert all(isinstance(future.exception(0), HandedBack) for future in futures)
