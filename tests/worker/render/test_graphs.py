"""The loop on a device where each new batch size costs a second: captures are counted, pictures compared."""

from __future__ import annotations

import random
import threading

import numpy as np
import pytest
import torch

from tests.worker.loops import Device, kinds, larger_than, run
from tests.worker.render.graph_device import CAPTURE, GraphDevice, feed
from tests.worker.samples import sample_spec
from worker.render.decoding import Decoding
from worker.render.denoisers import Denoisers
from worker.render.errors import DeviceLost, DeviceOutOfMemory
from worker.render.loop import RenderLoop
from worker.render.memory_limit import IN_VAIN_SECONDS, WAIT_SECONDS
from worker.render.request import BucketKey

SHAPES = [(64, 64 * n) for n in range(1, 6)]
KEY = BucketKey("", 64, 64, 77)


def mixed(number: int, shapes: list[tuple[int, int]], *, seed: int = 0) -> list[tuple[int, int]]:
    order = [shapes[n % len(shapes)] for n in range(number)]
    random.Random(seed).shuffle(order)
    return order


def test_a_lone_sample_is_not_padded() -> None:
    device = GraphDevice()
    loop = device.loop()
    loop.submit(sample_spec(1, steps=4))
    run(loop)
    assert device.captured == [(64, 64, 1)]
    assert loop.stats().padded_sample_steps == 0


@pytest.mark.parametrize(("jobs", "in_flight"), [(120, 16), (240, 32), (120, 120)])
def test_jobs_of_five_sizes_in_mixed_order_need_one_graph_or_two_a_size(jobs: int, in_flight: int) -> None:
    device, ready = GraphDevice(), GraphDevice()
    loop = device.loop()
    assert feed(loop, mixed(jobs, SHAPES), in_flight=in_flight) == {"done": jobs}
    assert {len(device.sizes_of(shape)) for shape in SHAPES} <= {1, 2}
    captures = loop.stats().captures["step"]
    assert captures.number == len(device.captured) <= 7
    assert captures.seconds == pytest.approx(CAPTURE * len(device.captured), rel=0.1)
    # By the device's own clock: beside the captures, it loses a fifth against a device that has every graph.
    ready.capture_all(SHAPES)
    feed(ready.loop(), mixed(jobs, SHAPES), in_flight=in_flight)
    assert device.now - captures.seconds < 1.2 * ready.now


def test_full_batches_of_one_size_capture_one_graph() -> None:
    device = GraphDevice()
    feed(device.loop(), mixed(80, SHAPES[:1]), in_flight=80)
    assert device.captured == [(64, 64, 8)]


def test_pictures_of_padded_batches_are_those_of_each_sample_alone() -> None:
    device = GraphDevice()
    loop = device.loop()
    specs = [sample_spec(n, steps=3 + n % 4, size=SHAPES[n % 2], eta=float(n % 3 == 0)) for n in range(20)]
    futures = [loop.submit(spec) for spec in specs]
    run(loop)
    assert loop.stats().padded_sample_steps > 0
    for spec, future in zip(specs, futures, strict=True):
        alone = RenderLoop(Device())
        expected = alone.submit(spec)
        run(alone)
        assert np.array_equal(future.result(0), expected.result(0))


def test_a_device_without_such_costs_is_used_as_before() -> None:
    device = Device(max_batch=4)
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(n, steps=2)) for n in range(6)]
    run(loop)
    assert device.sizes("step") == [4, 4, 2, 2]
    assert kinds(futures) == ["done"] * 6
    assert loop.sizes_in_use() == {}
    assert not loop.warm()


def test_several_sizes_ask_for_as_many_jobs_as_fill_a_batch_of_each() -> None:
    device = GraphDevice()
    loop = device.loop()
    futures = [loop.submit(sample_spec(n, steps=3, size=SHAPES[n])) for n in range(3)]
    assert loop.batch_places() == 0
    loop.step()
    assert loop.batch_places() == 3 * 8
    run(loop)
    assert kinds(futures) == ["done"] * 3
    assert loop.batch_places() == 0


def test_one_size_or_a_cpu_asks_for_no_more() -> None:
    for loop, shapes in ((GraphDevice().loop(), SHAPES[:1]), (RenderLoop(Device()), SHAPES[:2])):
        for number in range(4):
            loop.submit(sample_spec(number, size=shapes[number % len(shapes)]))
        loop.step()
        assert loop.batch_places() == 0


class InPowersOfTwo(GraphDevice):
    """Its engines were compiled for batches of 1, 2, 4 and 8."""

    def graph_sizes(self, key: BucketKey) -> tuple[int, ...]:
        return (1, 2, 4, 8)

    def batch_size(self, samples: int, height: int, width: int) -> int:
        return next(size for size in (1, 2, 4, 8) if size >= samples)


def test_a_limit_between_two_sizes_that_engines_have_is_padded_to_the_larger() -> None:
    device = InPowersOfTwo(max_batch=3)
    loop = device.loop()
    assert feed(loop, mixed(9, SHAPES[:1]), in_flight=9, steps=4) == {"done": 9}
    assert device.captured == [(64, 64, 4)]
    assert loop.stats().batch_sizes == {3: 12}


# -- memory ------------------------------------------------------------------------------------------------------------


def test_padding_that_does_not_fit_is_left_away_and_no_sample_fails() -> None:
    device = GraphDevice(room=3)
    loop = device.loop()
    assert feed(loop, mixed(40, SHAPES[:1]), in_flight=16, steps=3) == {"done": 40}
    assert max(size for *_, size in device.captured) <= 3


def test_a_single_sample_does_not_fail_because_of_its_padding() -> None:
    """Another size's jobs are expected with it, so its first graph would have been of four."""
    device = GraphDevice(room=1)
    loop = device.loop()
    loop.warm_up([(KEY, 4)])
    future = loop.submit(sample_spec(1, steps=2))
    run(loop)
    assert kinds([future]) == ["done"]
    assert device.captured == [(64, 64, 1)]


class Full(GraphDevice):
    """Beside graphs of more picture sizes than `most` it has no memory for a decoder."""

    def __init__(self, *, most: int = 2) -> None:
        super().__init__()
        self.most = most

    def decode(self, latents: torch.Tensor) -> Decoding:
        if len(self._graphs) > self.most:
            raise DeviceOutOfMemory("too many graphs")
        return super().decode(latents)


class Crowded(GraphDevice):
    """It has no memory for more than so many graphs."""

    def __init__(self, *, most: int) -> None:
        super().__init__()
        self.most = most

    def _capture(self, key: tuple[int, int, int], size: int) -> None:
        there = sum(map(len, self._graphs.values()))
        if size not in self._graphs.get(key, ()) and there >= self.most:
            raise DeviceOutOfMemory("too many graphs")
        super()._capture(key, size)


def test_graphs_make_room_for_a_sample_that_does_not_fit_beside_them() -> None:
    device = Full()
    loop = device.loop()
    loop.warm_up([(KEY._replace(width=8 * side), 1) for side in (8, 16, 24)])
    while loop.warm():
        pass
    future = loop.submit(sample_spec(1, steps=2))
    run(loop)
    assert kinds([future]) == ["done"]
    assert device.graphs(KEY) == set()


class Beside(GraphDevice):
    """Sets whose graphs share a pool: while any of them has one, there is no memory for a decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.sets: list[Beside] = [self]

    def decode(self, latents: torch.Tensor) -> Decoding:
        if any(one._graphs for one in self.sets):
            raise DeviceOutOfMemory("the pool is not free")
        return super().decode(latents)


def test_the_graphs_of_all_sets_on_the_device_make_room_since_one_set_s_alone_would_free_nothing() -> None:
    devices = {name: Beside() for name in ("a", "b", "away")}
    for one in devices.values():
        one.sets = [devices["a"], devices["b"]]
        one.capture_all(SHAPES[:1])
    loop = RenderLoop(Denoisers(devices, loaded=["a", "b"]), now=devices["a"].clock)
    future = loop.submit(sample_spec(1, steps=2, engine_set="a"))
    run(loop)
    assert kinds([future]) == ["done"]
    assert [bool(one._graphs) for one in devices.values()] == [False, False, True]
    assert loop.loads().loaded == {"a", "b"}


class Losing(Crowded):
    """A capture that runs out drops all graphs, as engines.cuda_graph does."""

    lost = False

    def _capture(self, key: tuple[int, int, int], size: int) -> None:
        try:
            super()._capture(key, size)
        except DeviceOutOfMemory:
            self.lost = self.drop_graphs()
            raise

    def drop_graphs(self) -> bool:
        lost, self.lost = self.lost, False
        return super().drop_graphs() or lost


def test_a_sample_whose_capture_has_dropped_the_graphs_is_tried_again_without_them() -> None:
    device = Losing(most=8)
    loop = device.loop()
    device.capture_all([(128, 128)])
    future = loop.submit(sample_spec(1, steps=2))
    run(loop)
    assert kinds([future]) == ["done"]
    assert device.captured == [(64, 64, 1)]


def test_graphs_make_room_as_often_as_that_helps() -> None:
    """Each picture's own graph is in the way of its decoder: dropping it is slow, and no picture fails for it."""
    device = Full(most=0)
    loop = device.loop()
    for number in range(4):
        future = loop.submit(sample_spec(number, steps=2))
        run(loop)
        assert kinds([future]) == ["done"]
        device.now += 30.0


def test_a_batch_that_was_halved_is_whole_again_once_graphs_have_made_room() -> None:
    device = Crowded(most=3)
    loop = device.loop()
    device.capture_all([(128, 128)])
    assert feed(loop, mixed(40, SHAPES[:1]), in_flight=16, steps=10) == {"done": 40}
    sizes = [size for size, steps in sorted(loop.stats().batch_sizes.items()) for _ in range(steps)]
    assert sizes.count(8) > 0.9 * len(sizes), loop.stats().batch_sizes


def test_a_halved_batch_is_tried_whole_again_a_minute_later() -> None:
    """It was another process that had taken the memory."""
    device = GraphDevice(room=2)
    loop = device.loop()
    device.trouble = larger_than(2, "step")
    futures = [loop.submit(sample_spec(number, steps=60)) for number in range(8)]
    while max(loop.stats().batch_sizes, default=0) < 2:
        loop.step()
    device.trouble, device.room = None, 8
    device.now += 2 * WAIT_SECONDS
    for _ in range(4):
        loop.step()
        device.now += 2 * WAIT_SECONDS
    run(loop)
    assert kinds(futures) == ["done"] * 8
    assert loop.stats().batch_sizes[8] > 40


def test_what_does_not_fit_even_without_graphs_drops_them_once() -> None:
    device = GraphDevice()
    loop = device.loop()
    device.trouble = larger_than(0, "decode")
    futures = [loop.submit(sample_spec(number, steps=2 + number)) for number in range(3)]
    run(loop)
    assert kinds(futures) == ["OutOfMemory"] * 3
    assert device.captured == [(64, 64, 3), (64, 64, 2)]


def test_a_device_that_is_full_is_not_warmed_again_for_a_while() -> None:
    """What filled it may have been one large picture, or another process."""
    device = GraphDevice(room=2)
    loop = device.loop()
    loop.warm_up([(KEY, 4), (KEY, 1)])
    assert loop.warm()
    assert not loop.warm()
    assert device.captured == []
    device.now += IN_VAIN_SECONDS - 1
    assert not loop.warm()
    device.now += 1
    device.room = 4
    assert [loop.warm(), loop.warm(), loop.warm()] == [True, True, False]
    assert device.captured == [(64, 64, 4), (64, 64, 1)]


class OneByOne(GraphDevice):
    """Its decoder takes pictures one by one; `warm` gives it a whole batch, as EngineDenoiser does."""

    def __init__(self) -> None:
        super().__init__()
        self.trouble = larger_than(1, "decode")

    def warm(self, key: BucketKey, size: int) -> None:
        super().warm(key, size)
        self.decode(torch.zeros(size, 4, 8, 8))


def test_a_graph_is_used_whose_pictures_did_not_fit_beside_it_while_idle() -> None:
    device = OneByOne()
    loop = device.loop()
    loop.warm_up([(KEY, 4), (KEY, 2)])
    assert loop.warm()
    assert not loop.warm()  # there is no room for more
    assert loop.stats().captures["idle"].number == 1
    futures = [loop.submit(sample_spec(number, steps=2)) for number in range(4)]
    run(loop)
    assert kinds(futures) == ["done"] * 4
    assert device.captured == [(64, 64, 4)]
    assert loop.stats().captures["step"].number == 0


# -- while idle --------------------------------------------------------------------------------------------------------


def test_an_idle_loop_captures_what_it_was_asked_for_in_order_and_once() -> None:
    device = GraphDevice()
    loop = device.loop()
    wide = BucketKey("", 64, 128, 77)
    loop.warm_up([(wide, 8), (KEY, 3), (wide, 2)])
    assert [loop.warm() for _ in range(4)] == [True, True, True, False]
    assert device.captured == [(64, 128, 8), (64, 64, 3), (64, 128, 2)]
    assert loop.stats().captures["idle"].number == 3
    assert loop.stats().steps == 0


def test_a_sample_waits_for_one_capture_at_most() -> None:
    device = GraphDevice()
    loop = device.loop()
    loop.warm_up([(KEY, size) for size in range(1, 9)])
    loop.warm()
    future = loop.submit(sample_spec(1, steps=2))
    assert not loop.warm()  # it waits
    loop.step()
    assert not loop.warm()  # it runs
    run(loop)
    assert kinds([future]) == ["done"]
    assert loop.warm()


def test_nothing_is_captured_while_a_job_is_being_prepared_or_the_worker_stops() -> None:
    loop = GraphDevice().loop()
    loop.warm_up([(KEY, 1), (KEY, 2)])
    with loop.expecting():
        assert not loop.warm()
    assert loop.warm()
    loop.shutdown.drain()
    assert not loop.warm()


def test_what_padding_wasted_is_captured_while_idle() -> None:
    device = GraphDevice()
    loop = device.loop()
    feed(loop, mixed(16, SHAPES[:1]), in_flight=16)
    feed(loop, mixed(3, SHAPES[:1]), in_flight=1, steps=4)  # each alone, in a graph of eight
    assert device.captured == [(64, 64, 8)]
    while loop.step() or loop.warm():
        pass
    assert device.captured == [(64, 64, 8), (64, 64, 1)]


def test_after_a_lone_job_an_idle_worker_is_ready_for_a_crowd_of_its_size() -> None:
    device = GraphDevice()
    loop = device.loop()
    feed(loop, SHAPES[:1], in_flight=1)
    while loop.warm():
        pass
    assert device.captured == [(64, 64, 1), (64, 64, 8)]
    feed(loop, mixed(80, SHAPES[:1]), in_flight=80)
    assert loop.stats().captures["step"].number == 1


def test_a_full_batch_that_does_not_fit_while_idle_is_not_tried_again_for_a_while() -> None:
    device = GraphDevice(room=4)
    loop = device.loop()
    feed(loop, SHAPES[:1], in_flight=1)
    assert [loop.warm(), loop.warm()] == [True, False]
    assert device.captured == [(64, 64, 1)]
    feed(loop, mixed(80, SHAPES[:1]), in_flight=80)
    assert set(device.sizes_of(SHAPES[0])) <= {1, 2, 3, 4}


def test_only_sets_on_the_device_are_warmed_and_unknown_sizes_are_passed_over() -> None:
    here, away = GraphDevice(), GraphDevice(max_batch=4)
    loop = RenderLoop(Denoisers({"here": here, "away": away}, loaded=["here"]), now=here.clock)
    asked = [("away", 2), ("nobody", 2), ("here", 99), ("here", 2)]
    loop.warm_up([(BucketKey(name, 64, 64, 77), size) for name, size in asked])
    assert [loop.warm(), loop.warm()] == [True, False]
    assert here.captured == [(64, 64, 2)]
    assert away.captured == []


def test_graphs_that_left_with_their_set_are_captured_again() -> None:
    device = GraphDevice()
    loop = device.loop()
    loop.warm_up([(KEY, 2)])
    loop.warm()
    device.unload()
    assert loop.warm()
    assert device.captured == [(64, 64, 2)] * 2


class Failing(GraphDevice):
    """Its captures fail."""

    error: Exception = RuntimeError("no kernel")

    def warm(self, key: BucketKey, size: int) -> None:
        raise self.error


def test_a_capture_that_fails_is_not_tried_again_and_concerns_no_job() -> None:
    device = Failing()
    loop = device.loop()
    loop.warm_up([(KEY, 2)])
    assert loop.warm()
    assert not loop.warm()
    future = loop.submit(sample_spec(1))
    run(loop)
    assert kinds([future]) == ["done"]


def test_a_device_that_is_lost_meanwhile_ends_the_loop() -> None:
    device = Failing()
    device.error = DeviceLost("gone")
    loop = device.loop()
    loop.warm_up([(KEY, 2)])
    with pytest.raises(DeviceLost):
        loop.run(threading.Event())


def test_a_running_loop_warms_as_soon_as_it_is_told_and_goes_on_waiting() -> None:
    device = GraphDevice()
    loop = device.loop()
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        loop.warm_up([(KEY, 2), (KEY, 5)])
        future = loop.submit(sample_spec(1, steps=2, size=(64, 128)))
        future.result(30)
        while len(device.captured) < 4:
            stop.wait(0.01)
    finally:
        stop.set()
        loop.wake()
        thread.join(30)
    assert sorted(device.captured) == [(64, 64, 2), (64, 64, 5), (64, 128, 1), (64, 128, 8)]


# -- what is learnt ----------------------------------------------------------------------------------------------------


def test_a_loop_that_knows_the_sizes_captures_the_same_graphs_and_none_for_a_step() -> None:
    first = GraphDevice()
    loop = first.loop()
    feed(loop, mixed(200, SHAPES), in_flight=32)
    used = sorted(loop.sizes_in_use().items(), key=lambda item: -item[1])
    assert sum(samples for _, samples in used) == loop.stats().sample_steps
    second = GraphDevice()
    again = second.loop()
    again.warm_up([size for size, _ in used])
    while again.warm():
        pass
    feed(again, mixed(200, SHAPES, seed=1), in_flight=32)
    assert again.stats().captures["step"].number <= 1
    assert set(first.captured) <= set(second.captured)
