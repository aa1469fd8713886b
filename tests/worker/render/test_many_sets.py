"""One loop for several engine sets: what they share, what they must not, and sets that cannot be loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from engines.cuda_graph import GraphPool
from jobs.errors import OutOfMemory, RenderFailed, Requeued
from tests.worker.loops import Device, kinds, larger_than, run
from tests.worker.samples import sample_spec
from worker.render.denoisers import Denoisers
from worker.render.errors import DeviceLost, DeviceOutOfMemory
from worker.render.loop import RenderLoop
from worker.render.residency import Residency


class SetDevice(Device):
    """A set's engines, of which the device holds as many sets as `room` says."""

    def __init__(self, *, pull: float = 1.0) -> None:
        super().__init__(max_batch=4)
        self._pull = pull
        self.events: list[str] = []
        self.trouble_loading: Callable[[], Exception | None] = lambda: None

    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        return super().encode_text(ids) * self._pull

    def encode_hint(self, edges: np.ndarray) -> torch.Tensor:
        return super().encode_hint(edges) * self._pull

    def load(self) -> None:
        error = self.trouble_loading()
        if error is not None:
            raise error
        self.events.append("load")

    def unload(self) -> None:
        self.events.append("unload")


def several(*names: str, limit: int | None = None) -> tuple[RenderLoop, dict[str, SetDevice]]:
    devices = {name: SetDevice(pull=1.0 + number) for number, name in enumerate(names)}
    denoisers = Denoisers(devices)
    residency = Residency(limit=limit, reload_seconds=lambda _: 0.0)
    return RenderLoop(denoisers, residency=residency), devices


def alone(device: SetDevice, number: int, **values: Any) -> np.ndarray:
    loop = RenderLoop(SetDevice(pull=device._pull))
    future = loop.submit(sample_spec(number, **values))
    run(loop)
    return future.result(0)


@pytest.mark.parametrize("limit", [None, 2, 1])
def test_samples_of_two_sets_share_no_step_and_look_as_if_their_set_were_alone(limit: int | None) -> None:
    loop, devices = several("a", "b", "c", limit=limit)
    names = [list(devices)[number % 3] for number in range(12)]
    futures = [loop.submit(sample_spec(number, engine_set=name, steps=4)) for number, name in enumerate(names)]
    run(loop)
    assert kinds(futures) == ["done"] * 12
    for number, (name, future) in enumerate(zip(names, futures, strict=True)):
        assert np.array_equal(future.result(0), alone(devices[name], number, steps=4)), number
    assert {name: device.sizes("step") for name, device in devices.items()} == dict.fromkeys("abc", [4] * 4)
    assert loop.stats().images_by_set == dict.fromkeys("abc", 4)
    assert loop.stats().sample_steps_by_set == dict.fromkeys("abc", 16)
    assert len(loop.loads().loaded) == (limit or 3)


def test_equal_prompts_and_edges_are_encoded_by_each_set_and_kept_for_each() -> None:
    loop, devices = several("a", "b")
    for _ in range(2):
        for name in devices:
            loop.submit(sample_spec(1, engine_set=name))
            run(loop)
    for device in devices.values():
        assert (device.sizes("text"), device.sizes("hint")) == ([2], [1])


def test_prompts_of_another_length_are_another_batch() -> None:
    loop, devices = several("a")
    long: dict[str, Any] = {"cond_ids": np.ones(154, np.int64), "uncond_ids": np.zeros(154, np.int64)}
    futures = [loop.submit(sample_spec(number, engine_set="a", **more)) for number, more in enumerate([{}, long, {}])]
    run(loop)
    assert kinds(futures) == ["done"] * 3
    assert sorted(devices["a"].sizes("step")) == [1, 1, 1, 2, 2, 2]


def test_a_set_is_loaded_when_it_is_first_needed_and_stays_where_there_is_room() -> None:
    loop, devices = several("a", "b")
    assert [device.events for device in devices.values()] == [[], []]
    for name in ("a", "a", "b", "a"):
        loop.submit(sample_spec(1, engine_set=name))
        run(loop)
    assert [device.events for device in devices.values()] == [["load"], ["load"]]


def test_what_a_set_takes_to_load_is_told_and_is_no_part_of_the_steps_turn() -> None:
    loop, devices = several("one", "two")
    seen: list[tuple[str, bool, float | None]] = []

    def note(what: str) -> None:
        seen.append((what, loop.loads().loading, loop.stats().busy_since))

    devices["one"].trouble_loading = lambda: note("load")
    devices["one"].trouble = lambda name, _: note(name)
    loop.submit(sample_spec(1, engine_set="one"))
    run(loop)
    (_, loading, began), *others = seen
    assert loading
    assert began is not None
    assert not any(still for _, still, _ in others)
    assert all(since is not None and since > began for _, _, since in others)


def test_a_set_that_cannot_be_loaded_fails_its_own_samples_and_is_tried_again_for_the_next() -> None:
    loop, devices = several("a", "b")
    devices["b"].trouble_loading = lambda: FileNotFoundError("weights.safetensors is gone")
    futures = [loop.submit(sample_spec(number, engine_set=name)) for number, name in enumerate("abab")]
    run(loop)
    assert kinds(futures) == ["done", "RenderFailed", "done", "RenderFailed"]
    error = futures[1].exception(0)
    assert isinstance(error, RenderFailed)
    assert "the engine set b could not be loaded: FileNotFoundError: weights.safetensors is gone" in str(error)
    devices["b"].trouble_loading = lambda: None
    again = loop.submit(sample_spec(9, engine_set="b"))
    run(loop)
    assert kinds([again]) == ["done"]


def test_where_memory_is_too_short_for_all_the_least_recently_used_leaves_and_what_it_ran_goes_on_later() -> None:
    loop, devices = several("a", "b", "c")
    room = lambda: DeviceOutOfMemory("full") if len(loop.loads().loaded) >= 2 else None  # noqa: E731
    for device in devices.values():
        device.trouble_loading = room
    futures = [loop.submit(sample_spec(number, engine_set=name, steps=5)) for number, name in enumerate("abc")]
    run(loop)
    assert kinds(futures) == ["done"] * 3
    for number, name in enumerate("abc"):
        assert np.array_equal(futures[number].result(0), alone(devices[name], number, steps=5))
    assert len(loop.loads().loaded) == 2


def test_a_sample_that_does_not_fit_beside_another_set_gets_its_room() -> None:
    loop, devices = several("a", "b")
    for name in "ab":
        loop.submit(sample_spec(1, engine_set=name))
    run(loop)
    devices["a"].trouble = lambda called, samples: DeviceOutOfMemory("full") if len(loop.loads().loaded) > 1 else None
    future = loop.submit(sample_spec(2, engine_set="a"))
    run(loop)
    assert kinds([future]) == ["done"]
    assert loop.loads().loaded == {"a"}


def test_a_sample_that_does_not_fit_even_alone_fails_and_the_sets_that_left_for_it_come_back_to_stay() -> None:
    loop, devices = several("a", "b", "c")
    for name in "abc":
        loop.submit(sample_spec(1, engine_set=name))
    run(loop)
    devices["a"].trouble = larger_than(0, "step")
    futures = [loop.submit(sample_spec(2, engine_set="a")) for _ in range(2)]
    run(loop)
    assert kinds(futures) == ["OutOfMemory"] * 2
    assert loop.loads().loaded == {"a"}
    devices["a"].trouble = lambda called, samples: None
    futures = [loop.submit(sample_spec(3, engine_set=name)) for name in "abcabc"]
    run(loop)
    assert kinds(futures) == ["done"] * 6
    assert loop.loads().loaded == set("abc")
    assert loop.parked() == 0
    devices["a"].trouble = larger_than(0, "step")
    again = loop.submit(sample_spec(4, engine_set="a"))
    run(loop)
    assert kinds([again]) == ["OutOfMemory"]
    assert loop.loads().loaded == set("abc")  # another one of that size makes nobody leave


def test_a_set_that_does_not_even_fit_alone_is_out_of_memory_with_advice() -> None:
    loop, devices = several("a")
    devices["a"].trouble_loading = lambda: DeviceOutOfMemory("full")
    futures = [loop.submit(sample_spec(number, engine_set="a")) for number in range(2)]
    run(loop)
    error = futures[1].exception(0)
    assert isinstance(error, OutOfMemory)
    assert "RENDER_LOW_VRAM=1" in str(error)
    assert "unload" in devices["a"].events  # nothing of it stays


def test_a_device_that_is_lost_while_a_set_is_loaded_ends_the_loop() -> None:
    loop, devices = several("a")
    devices["a"].trouble_loading = lambda: DeviceLost("gone")
    future = loop.submit(sample_spec(1, engine_set="a"))
    with pytest.raises(DeviceLost):
        loop.step()
    error = future.exception(0)
    assert isinstance(error, Requeued)
    assert not error.blameless  # loading that set may be what the device does not survive


@pytest.mark.parametrize("call", ["text", "step", "decode"])
def test_a_device_that_is_lost_while_another_set_makes_room_leaves_no_future_open(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, devices = several("a", "b")
    loop.submit(sample_spec(1, engine_set="b"))
    run(loop)

    def lost() -> None:
        raise DeviceLost("gone")

    monkeypatch.setattr(devices["b"], "unload", lost)
    devices["a"].trouble = larger_than(0, call)
    futures = [loop.submit(sample_spec(number, engine_set="a", steps=1)) for number in range(2, 4)]
    with pytest.raises(DeviceLost):
        loop.run(threading.Event())
    assert kinds(futures) == ["Requeued"] * 2


def test_one_pool_of_graph_memory_lives_as_long_as_any_set_has_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    handles = iter(range(100))
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: next(handles))
    pool = GraphPool()
    used = []
    for _ in range(3):
        with pool.capturing() as handle:
            used.append(handle)
    pool.release(2)  # one set leaves
    with pool.capturing() as handle:
        used.append(handle)
    assert used == [0, 0, 0, 0]
    pool.release(2)
    with pytest.raises(RuntimeError, match="out of memory"), pool.capturing():
        raise RuntimeError("out of memory")
    with pool.capturing() as handle:
        used.append(handle)
    assert used[-1] == 2  # torch has freed the first, and the second saw a capture fail
