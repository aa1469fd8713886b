"""EngineDenoiser: its calls of engines, how it splits them, and how it translates their errors."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from engines.backends.protocol import Engine, Runtime
from engines.device import Placement
from engines.engine_set import EngineSet
from engines.manifest import load_manifest
from tests.models import tiny_engine_set
from tests.worker.render.tracebacks import generators_that_hold
from tests.worker.samples import running_request, sample_spec
from worker.fake import FakeDenoiser
from worker.render import ddim
from worker.render.batch import RequestBatch, StepBatch
from worker.render.denoiser import EngineDenoiser
from worker.render.encodings import Encodings
from worker.render.errors import DeviceLost, DeviceOutOfMemory
from worker.render.loop import RenderLoop
from worker.render.request import BucketKey

MAX_BATCH = 4
Inputs = Mapping[str, torch.Tensor]


class RecordingBackend(Runtime):
    """Engines that return constants, record their inputs, and fail on demand."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.calls: list[tuple[str, dict[str, torch.Tensor]]] = []
        self.errors: dict[str, Exception] = {}

    def open(self, name: str) -> Engine:
        self.events.append(f"load {name}")
        if name in self.errors:
            raise self.errors.pop(name)
        return lambda inputs: self._call(name, inputs)

    def _call(self, name: str, inputs: Inputs) -> dict[str, torch.Tensor]:
        self.calls.append((name, dict(inputs)))
        if name in self.errors:
            raise self.errors.pop(name)
        outputs: dict[str, Callable[[], dict[str, torch.Tensor]]] = {
            "clip": lambda: {"last_hidden_state": inputs["input_ids"].float().unsqueeze(-1)},
            "hint": lambda: {"guided_hint": torch.nn.functional.avg_pool2d(inputs["hint"], 8)},
            "controlnet": lambda: {f"control{i}": inputs["control_scales"][:, i] for i in range(13)},
            "unet": lambda: {"latent": inputs["x_noisy"] * 0.1 + inputs["context"].mean(dim=(1, 2)).view(-1, 1, 1, 1)},
            "decoder": lambda: {"image": inputs["latent"][:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)},
        }
        return outputs[name]()

    def given(self, name: str, tensor: str) -> list[torch.Tensor]:
        return [inputs[tensor] for called, inputs in self.calls if called == name]


class RecordingSet(EngineSet):
    """A real manifest over recording engines."""

    def __init__(self, backend: RecordingBackend) -> None:
        folder = tiny_engine_set(max_batch=MAX_BATCH)
        placement = Placement(torch.device("cpu"), None)
        super().__init__(load_manifest(folder), folder=folder, placement=placement, runtime=backend)
        self.backend = backend

    def unload(self, names: Any) -> None:
        for name in sorted(set(names) & set(self._engines)):
            self.backend.events.append(f"unload {name}")
        super().unload(names)


@pytest.fixture
def backend() -> RecordingBackend:
    return RecordingBackend()


def denoiser(backend: RecordingBackend, **options: Any) -> EngineDenoiser:
    return EngineDenoiser(RecordingSet(backend), **options)


def batch(*numbers: int, **values: Any) -> StepBatch:
    return RequestBatch([running_request(number, **values) for number in numbers]).next_step()


def test_all_engines_are_loaded_before_the_first_job(backend: RecordingBackend) -> None:
    denoiser(backend)
    assert sorted(backend.events) == [f"load {name}" for name in ("clip", "controlnet", "decoder", "hint", "unet")]


@pytest.mark.parametrize(("asked", "given"), [(None, 4), (2, 2), (9, 4)])
def test_a_step_takes_as_many_as_the_set_was_built_for_or_fewer_if_told(
    backend: RecordingBackend, asked: int | None, given: int
) -> None:
    assert denoiser(backend, max_batch=asked).max_batch(64, 64) == given


def test_a_step_is_control_net_then_u_net_on_both_halves(backend: RecordingBackend) -> None:
    one = batch(1, 2, steps=4)
    denoiser(backend).step(one)
    assert [name for name, _ in backend.calls] == ["controlnet", "unet"]
    for name in ("controlnet", "unet"):
        (noisy,), (timestep,) = backend.given(name, "x_noisy"), backend.given(name, "timestep")
        assert torch.equal(noisy, torch.cat([one.latents, one.latents]))
        assert timestep.tolist() == [751.0] * 4
    assert backend.given("unet", "control12")[0].tolist() == [11, 12, 21, 22]


def test_a_step_is_guided_ddim(backend: RecordingBackend) -> None:
    one = batch(1, 2, steps=4, eta=0.5, scale=3.0)
    # The U-Net above gives x / 10 - number for the unconditional row and x / 10 + number for the conditional one.
    number = torch.tensor([1.0, 2.0]).view(2, 1, 1, 1)
    guided = one.latents / 10 - number + 3.0 * 2 * number
    expected = ddim.step(one.latents, guided, coefficients=one.coefficients, noise=one.noise)
    torch.testing.assert_close(denoiser(backend).step(one), expected)


def test_a_picture_is_a_hint_in_rgb_and_edges_are_three_equal_channels(backend: RecordingBackend) -> None:
    door = denoiser(backend)
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 2, (2, 64, 128), dtype=np.uint8) * 255
    pictures = rng.integers(0, 256, (2, 64, 128, 3), dtype=np.uint8)
    of_edges, of_grey = door.encode_hint(edges), door.encode_hint(np.stack([edges] * 3, axis=3))
    assert torch.equal(of_edges, of_grey)
    door.encode_hint(pictures)
    hint = backend.given("hint", "hint")[-1]
    assert hint.is_contiguous()
    torch.testing.assert_close(hint, torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255)


def test_more_than_the_engines_take_is_encoded_and_decoded_in_parts(backend: RecordingBackend) -> None:
    door = denoiser(backend)
    ids = np.arange(10 * 77, dtype=np.int64).reshape(10, 77)
    assert torch.equal(door.encode_text(ids)[:, :, 0], torch.from_numpy(ids).float())
    assert [len(part) for part in backend.given("clip", "input_ids")] == [4, 4, 2]
    edges = np.random.default_rng(0).integers(0, 2, (6, 64, 128), dtype=np.uint8) * 255
    assert door.encode_hint(edges).shape == (6, 3, 8, 16)
    assert [len(part) for part in backend.given("hint", "hint")] == [4, 2]
    assert len(door.decode(torch.zeros(5, 4, 8, 8)).pictures()) == 5
    assert [len(part) for part in backend.given("decoder", "latent")] == [4, 1]


def test_edges_go_in_as_three_channels_of_0_and_1(backend: RecordingBackend) -> None:
    edges = np.zeros((1, 64, 64), np.uint8)
    edges[0, 3, 5] = 255
    denoiser(backend).encode_hint(edges)
    (hint,) = backend.given("hint", "hint")
    assert hint.shape == (1, 3, 64, 64)
    assert hint[0, :, 3, 5].tolist() == [1.0, 1.0, 1.0]
    assert float(hint.sum()) == 3.0


def test_latents_are_divided_by_the_scaling_factor_before_decoding(backend: RecordingBackend) -> None:
    (picture,) = denoiser(backend).decode(torch.full((1, 4, 8, 8), 0.18215 / 2)).pictures()
    assert torch.allclose(backend.given("decoder", "latent")[0], torch.tensor(0.5))
    assert picture is not None
    assert picture.shape == (64, 64, 3)
    assert (picture == 191).all()  # 0.5 * 127.5 + 127.5, rounded


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), DeviceOutOfMemory),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), DeviceOutOfMemory),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED"), DeviceOutOfMemory),
        (MemoryError(), DeviceOutOfMemory),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED"), DeviceLost),
        (RuntimeError("shapes do not match"), RuntimeError),
        (ValueError("a bug"), ValueError),
    ],
    ids=str,
)
def test_the_device_s_errors_are_told_from_a_batch_s_own(
    backend: RecordingBackend, error: Exception, meaning: type[Exception]
) -> None:
    door = denoiser(backend)
    calls: dict[str, Callable[[], object]] = {
        "unet": lambda: door.step(batch(1)),
        "clip": lambda: door.encode_text(np.zeros((1, 77), np.int64)),
        "hint": lambda: door.encode_hint(np.zeros((1, 64, 64), np.uint8)),
        "decoder": lambda: door.decode(torch.zeros(1, 4, 8, 8)),
    }
    for name, call in calls.items():
        backend.errors[name] = error
        with pytest.raises(meaning) as caught:
            call()
        assert generators_that_hold(error) == generators_that_hold(caught.value) == []
        call()  # and works again when the engines do


def test_an_engine_s_tensors_are_free_before_the_halves_of_its_batch_are_tried(backend: RecordingBackend) -> None:
    """Through all that translates and passes on the error, without the garbage collector."""
    alive: list[bool] = []
    held: list[weakref.ref[torch.Tensor]] = []

    def decode(inputs: Inputs) -> dict[str, torch.Tensor]:
        alive.extend(one() is not None for one in held)
        activation = inputs["latent"] + 1
        held.append(weakref.ref(activation))
        if len(activation) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return {"image": activation[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3)}

    door = denoiser(backend)
    door._engines._engines["decoder"] = decode
    loop = RenderLoop(door)
    futures = [loop.submit(sample_spec(number)) for number in range(4)]
    gc.disable()
    try:
        while loop.step():
            pass
    finally:
        gc.enable()
    assert all(future.result(0).shape == (64, 64, 3) for future in futures)
    assert len(held) == 7
    assert not any(alive)


class Captured:
    """Graphs of these inputs, in the place of Graphed, which captures none on a CPU."""

    capture_seconds = 0.0

    def __init__(self, *shapes: dict[str, tuple[int, ...]]) -> None:
        self.shapes = list(shapes)

    def clear(self) -> None:
        self.shapes.clear()

    def __call__(self, inputs: Inputs) -> dict[str, torch.Tensor]:
        self.capture_seconds += 1.0
        return {"latents": inputs["latents"]}


def test_the_graphs_that_there_are_count_also_where_a_step_failed_after_its_capture(backend: RecordingBackend) -> None:
    door = denoiser(backend)
    shapes = [{"latents": (size, 4, 8, side), "context": (2 * size, 77, 4)} for size, side in ((2, 8), (3, 8), (4, 16))]
    door._step = Captured(*shapes)  # type: ignore[assignment]
    assert door.graphs(BucketKey("", 64, 64, 77)) == {2, 3}
    assert door.graphs(BucketKey("", 64, 128, 77)) == {4}
    assert door.graphs(BucketKey("", 64, 64, 154)) == set()
    assert [door.drop_graphs(), door.drop_graphs()] == [True, False]


def test_graphs_that_a_failed_capture_has_dropped_count_as_dropped_once(
    backend: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    door = denoiser(backend)
    with door._pool.capturing():
        pass
    with pytest.raises(torch.OutOfMemoryError), door._pool.capturing():
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert [door.drop_graphs(), door.drop_graphs()] == [True, False]


def test_what_an_idle_worker_s_failed_capture_has_dropped_makes_no_room_later(
    backend: RecordingBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
    door = denoiser(backend)

    class Failing(Captured):
        def __call__(self, inputs: Inputs) -> dict[str, torch.Tensor]:
            with door._pool.capturing():
                raise torch.OutOfMemoryError("CUDA out of memory")

    door._step = Failing()  # type: ignore[assignment]
    with door._pool.capturing():
        pass
    with pytest.raises(DeviceOutOfMemory):
        door.warm(BucketKey("", 64, 64, 77), 2)
    assert not door.drop_graphs()


def test_a_set_s_loading_takes_as_long_as_the_captures_that_steps_waited_for(backend: RecordingBackend) -> None:
    door = denoiser(backend)
    door._step = Captured()  # type: ignore[assignment]
    loading = door.reload_seconds
    door.step(batch(1))
    door.warm(BucketKey("", 64, 64, 77), 2)
    assert door.reload_seconds == loading + 1.0


def residents(events: list[str]) -> list[set[str]]:
    """The engines on the device after each event."""
    there: set[str] = set()
    history = []
    for event in events:
        verb, name = event.split()
        there = there | {name} if verb == "load" else there - {name}
        history.append(there)
    return history


def test_with_low_vram_the_two_kinds_of_engines_are_never_there_together(backend: RecordingBackend) -> None:
    door = denoiser(backend, low_vram=True)
    assert backend.events == []
    loop = RenderLoop(door)
    futures = [loop.submit(sample_spec(number, steps=2 + number)) for number in range(3)]
    while loop.step():
        pass
    assert all(future.result(0).shape == (64, 64, 3) for future in futures)
    diffusion, others = {"hint", "controlnet", "unet"}, {"clip", "decoder"}
    for there in residents(backend.events):
        assert not (there & diffusion and there & others), backend.events
    assert {name for there in residents(backend.events) for name in there} == diffusion | others


def test_with_low_vram_steps_in_a_row_swap_nothing(backend: RecordingBackend) -> None:
    door = denoiser(backend, low_vram=True)
    one = batch(1)
    door.step(one)
    before = len(backend.events)
    door.step(one)
    assert len(backend.events) == before


def test_a_swap_that_fails_half_way_is_done_again(backend: RecordingBackend) -> None:
    door = denoiser(backend, low_vram=True)
    door.encode_text(np.zeros((1, 77), np.int64))
    backend.errors["unet"] = RuntimeError("CUDA out of memory")
    with pytest.raises(DeviceOutOfMemory):
        door.step(batch(1))
    door.step(batch(1))
    assert residents(backend.events)[-1] == {"hint", "controlnet", "unet"}


# -- the fake ---------------------------------------------------------------------------------------------------------


def test_the_fake_takes_real_ddim_steps_on_what_it_is_told_to_predict() -> None:
    one = batch(1, 2, steps=4, eta=1.0)
    fake = FakeDenoiser(lambda batch: batch.latents * 0.5)
    expected = ddim.step(one.latents, one.latents * 0.5, coefficients=one.coefficients, noise=one.noise)
    assert torch.equal(fake.step(one), expected)


def test_the_fake_has_the_shapes_of_the_real_one(backend: RecordingBackend) -> None:
    edges = np.zeros((3, 64, 128), np.uint8)
    ids = np.zeros((3, 77), np.int64)
    for door in (denoiser(backend), FakeDenoiser(lambda batch: batch.latents, max_batch=MAX_BATCH)):
        assert door.max_batch(64, 64) == MAX_BATCH
        assert door.batch_size(3, 64, 128) == 3
        assert door.encode_text(ids).shape[:2] == (3, 77)
        assert door.encode_hint(edges).shape[2:] == (8, 16)
        assert door.step(batch(1, 2)).shape == (2, 4, 8, 8)
        pictures = door.decode(torch.zeros(2, 4, 8, 8)).pictures()
        assert [picture is not None and picture.shape for picture in pictures] == [(64, 64, 3)] * 2


def test_the_fake_s_pictures_depend_on_seed_and_edges_and_not_on_the_batch() -> None:
    def render(*requests: Any) -> list[np.ndarray]:
        loop = RenderLoop(FakeDenoiser(max_batch=8))
        futures = [loop.submit(request) for request in requests]
        while loop.step():
            pass
        return [future.result(0) for future in futures]

    one, other_seed = sample_spec(1), sample_spec(1, seed=2)
    other_edges = sample_spec(1, edges=np.full((64, 64), 255, np.uint8))
    (alone,) = render(one)
    first, second, third = render(one, other_seed, other_edges)
    assert np.array_equal(alone, first)
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, third)
    assert Encodings(FakeDenoiser()).encode([one])[0].latent_shape == (4, 8, 8)
