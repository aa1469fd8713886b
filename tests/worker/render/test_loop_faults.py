"""What engines and devices do to the loop: a fault ends the samples it struck, and no others."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import OutOfMemory, RenderFailed, Requeued
from tests.worker.loops import Device, kinds, larger_than, once, run
from tests.worker.render.tracebacks import generators_that_hold
from tests.worker.samples import sample_spec
from worker.render.batch import StepBatch
from worker.render.decoding import Decoding
from worker.render.errors import DeviceLost, DeviceOutOfMemory
from worker.render.loop import RenderLoop


@pytest.mark.parametrize(
    ("call", "doing"),
    [("text", "encoding prompt and edges"), ("hint", "encoding"), ("step", "denoising"), ("decode", "decoding")],
)
def test_a_poisoned_batch_fails_its_own_samples_and_the_loop_lives_on(call: str, doing: str) -> None:
    device = Device(max_batch=2, trouble=once(call, ValueError("bad tensor")))
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(number, steps=2)) for number in range(4)]
    run(loop)
    assert kinds(futures) == ["RenderFailed", "RenderFailed", "done", "done"]
    with pytest.raises(RenderFailed, match=f"{doing}.* failed: ValueError: bad tensor"):
        futures[0].result(0)


def test_a_poisoned_shape_leaves_the_other_shape_alone() -> None:
    loop = RenderLoop(Device(trouble=once("step", ValueError("bad tensor"))))
    futures = [loop.submit(sample_spec(n, size=size)) for n, size in enumerate([(64, 64), (64, 128), (64, 64)])]
    run(loop)
    assert kinds(futures) == ["RenderFailed", "done", "RenderFailed"]


def test_values_that_are_no_numbers_fail_their_own_sample_alone() -> None:
    class Poisoned(Device):
        def step(self, batch: StepBatch) -> torch.Tensor:
            latents = super().step(batch)
            return torch.where(batch.guidance.view(-1, 1, 1, 1) == 13.0, torch.nan, latents)

    loop = RenderLoop(Poisoned())
    futures = [loop.submit(sample_spec(number, scale=scale)) for number, scale in enumerate([7.0, 13.0, 8.0])]
    run(loop)
    assert kinds(futures) == ["done", "RenderFailed", "done"]
    with pytest.raises(RenderFailed, match="not numbers; `engines verify`"):
        futures[1].result(0)
    assert loop.stats().images == 2


def test_out_of_memory_halves_the_batch_and_the_samples_go_on_where_they_were() -> None:
    device = Device(max_batch=4, trouble=larger_than(2, "step"))
    loop = RenderLoop(device)
    specs = [sample_spec(number, steps=3, eta=1.0) for number in range(4)]
    futures = [loop.submit(spec) for spec in specs]
    run(loop)
    assert kinds(futures) == ["done"] * 4
    assert device.sizes("step") == [4] + [2] * 6
    roomy = RenderLoop(Device(max_batch=4))
    expected = [roomy.submit(spec) for spec in specs]
    run(roomy)
    assert all(np.array_equal(a.result(0), b.result(0)) for a, b in zip(futures, expected, strict=True))


def test_out_of_memory_after_some_steps_repeats_none_of_them() -> None:
    device = Device(max_batch=2)
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(number, steps=4, eta=0.5)) for number in range(2)]
    loop.step()
    loop.step()
    device.trouble = larger_than(1, "step")
    run(loop)
    assert kinds(futures) == ["done"] * 2
    assert device.sizes("step") == [2, 2, 2] + [1] * 4  # the third did not fit


def test_out_of_memory_of_one_shape_does_not_halve_another() -> None:
    device = Device(max_batch=2)
    device.trouble = lambda name, samples: (
        DeviceOutOfMemory("full") if name == "step" and samples > 1 and len(device.calls) < 6 else None
    )
    loop = RenderLoop(device)
    for number in range(2):
        loop.submit(sample_spec(number, size=(128, 128)))
    loop.step()  # halved
    futures = [loop.submit(sample_spec(number, size=(64, 64))) for number in range(2)]
    run(loop)
    small = [size for size, shape in zip(device.sizes("step")[1:], device.shapes, strict=True) if shape == (8, 8)]
    assert small == [2, 2, 2]
    assert kinds(futures) == ["done"] * 2


@pytest.mark.parametrize("call", ["text", "hint", "step", "decode"])
def test_one_sample_that_does_not_fit_fails_with_what_to_do(call: str) -> None:
    loop = RenderLoop(Device(trouble=larger_than(0, call)))
    futures = [loop.submit(sample_spec(number)) for number in range(3)]
    run(loop)
    assert kinds(futures) == ["OutOfMemory"] * 3
    with pytest.raises(OutOfMemory, match="lower image_resolution, or set RENDER_LOW_VRAM=1"):
        futures[0].result(0)


@pytest.mark.parametrize("call", ["text", "hint", "step", "decode"])
def test_what_may_be_no_lack_of_memory_is_not_called_one(call: str) -> None:
    """Batches are halved, since it may; and a sample that fails alone is told what the library said."""

    def unsupported(name: str, _: int) -> Exception | None:
        return DeviceOutOfMemory("GET was unable to find an engine", certain=False) if name == call else None

    loop = RenderLoop(Device(trouble=unsupported))
    futures = [loop.submit(sample_spec(number)) for number in range(3)]
    run(loop)
    assert kinds(futures) == ["RenderFailed"] * 3
    with pytest.raises(RenderFailed, match="for one sample alone: GET was unable to find an engine; cuDNN says so"):
        futures[0].result(0)


@pytest.mark.parametrize("call", ["hint", "decode"])
def test_encoding_and_decoding_are_done_in_parts_where_memory_is_short(call: str) -> None:
    device = Device(max_batch=4, trouble=larger_than(1, call))
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(number)) for number in range(4)]
    run(loop)
    assert kinds(futures) == ["done"] * 4
    assert device.sizes(call) == [4, 2, 1, 1, 2, 1, 1]
    assert set(device.sizes("step")) == {4}


@pytest.fixture
def no_collector() -> Iterator[None]:
    """Memory on a device cannot wait for the garbage collector."""
    gc.disable()
    yield
    gc.enable()


class Greedy(Device):
    """Its decoder takes memory for each picture before it finds out that there is too little for all."""

    def __init__(self, *, room: int, graphs: bool = False) -> None:
        super().__init__(max_batch=4)
        self.room = room
        self.graphs_left = graphs
        self.held: list[weakref.ref[np.ndarray]] = []
        self.alive: list[int] = []  # at each call, what earlier calls have not let go of

    def drop_graphs(self) -> bool:
        had_some, self.graphs_left = self.graphs_left, False
        self.room += had_some
        return had_some

    def decode(self, latents: torch.Tensor) -> Decoding:
        self.alive.append(sum(one() is not None for one in self.held))
        activations = [np.zeros(1) for _ in latents]
        self.held += map(weakref.ref, activations)
        if len(latents) > self.room:
            raise DeviceOutOfMemory("full")
        return super().decode(latents)


@pytest.mark.usefixtures("no_collector")
def test_what_a_call_had_taken_is_free_before_its_halves_are_tried() -> None:
    device = Greedy(room=1)
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(number)) for number in range(4)]
    run(loop)
    assert kinds(futures) == ["done"] * 4
    assert device.alive == [0] * 7


@pytest.mark.usefixtures("no_collector")
def test_what_a_sample_had_taken_is_free_before_it_is_tried_without_graphs() -> None:
    device = Greedy(room=0, graphs=True)
    loop = RenderLoop(device)
    future = loop.submit(sample_spec(1))
    run(loop)
    assert kinds([future]) == ["done"]
    assert device.alive == [0, 0]


@pytest.mark.parametrize("call", ["text", "hint", "step", "decode"])
@pytest.mark.parametrize("error", [DeviceOutOfMemory("full"), DeviceLost("CUDA error"), ValueError("bad")], ids=str)
def test_no_generator_holds_what_a_call_had_taken_before_it_failed(call: str, error: Exception) -> None:
    loop = RenderLoop(Device(trouble=once(call, error)))
    future = loop.submit(sample_spec(1))
    with suppress(DeviceLost):
        run(loop)
    assert future.done()
    assert generators_that_hold(error) == []


@pytest.mark.parametrize("call", ["text", "hint", "step", "decode"])
def test_a_lost_device_requeues_every_job_and_ends_the_loop(call: str) -> None:
    loop = RenderLoop(Device(max_batch=2, trouble=once(call, DeviceLost("CUDA error: unspecified launch failure"))))
    futures = [loop.submit(sample_spec(number)) for number in range(5)]
    with pytest.raises(DeviceLost, match="unspecified"):
        loop.run(threading.Event())
    assert kinds(futures) == ["Requeued"] * 5
    blame = [error.blameless for error in map(Future.exception, futures) if isinstance(error, Requeued)]
    assert blame == [False, False, True, True, True]  # one of those in the call may have caused it


def test_a_device_lost_while_parts_are_done_leaves_no_future_open() -> None:
    def trouble(name: str, samples: int) -> Exception | None:
        if name != "decode":
            return None
        return DeviceOutOfMemory("full") if samples > 2 else DeviceLost("CUDA error")

    loop = RenderLoop(Device(max_batch=4, trouble=trouble))
    futures = [loop.submit(sample_spec(number, steps=1)) for number in range(4)]
    with pytest.raises(DeviceLost):
        loop.run(threading.Event())
    assert kinds(futures) == ["Requeued"] * 4


@given(st.lists(st.sampled_from(["text", "hint", "step", "decode", "-", "-"]), max_size=30), st.integers(1, 9))
@settings(deadline=None, max_examples=60)
def test_whatever_goes_wrong_every_future_ends_once(script: list[str], samples: int) -> None:
    errors = iter(script)

    def trouble(name: str, size: int) -> Exception | None:
        said = next(errors, "-")
        if said != name:
            return None
        return DeviceOutOfMemory("full") if size % 2 else ValueError("bad")

    loop = RenderLoop(Device(max_batch=3, trouble=trouble))
    futures = [loop.submit(sample_spec(n, steps=1 + n % 3, size=(64, 64 + 64 * (n % 2)))) for n in range(samples)]
    run(loop)
    assert set(kinds(futures)) <= {"done", "RenderFailed", "OutOfMemory"}
    with pytest.raises(InvalidStateError):
        futures[0].set_result(np.zeros(1))


def test_memory_that_runs_out_while_pictures_are_fetched_ends_their_samples_and_no_others() -> None:
    class Arriving(Decoding):
        def pictures(self) -> list[np.ndarray | None]:
            raise DeviceOutOfMemory("full")

    device = Device(max_batch=2)
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(number, steps=1)) for number in range(3)]
    device.decode = lambda latents: Arriving(latents)  # type: ignore[method-assign]
    loop.step()
    del device.decode
    run(loop)
    assert kinds(futures) == ["OutOfMemory", "OutOfMemory", "done"]
