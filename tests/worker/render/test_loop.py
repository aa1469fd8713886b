"""Admit, advance, retire: the loop is driven by calling step()."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import wait
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import Cancelled, Requeued
from tests.worker.loops import Device, kinds, run
from tests.worker.samples import sample_spec
from worker.render.loop import RenderLoop
from worker.render.scheduler import Scheduler

# -- admit -------------------------------------------------------------------------------------------------------------


def test_an_idle_loop_has_nothing_to_do() -> None:
    device = Device()
    assert not RenderLoop(device).step()
    assert device.calls == []


def test_a_sample_takes_its_steps_and_becomes_a_picture() -> None:
    device = Device()
    loop = RenderLoop(device)
    future = loop.submit(sample_spec(1, steps=3, size=(64, 128)))
    assert [loop.step() for _ in range(4)] == [True, True, True, False]
    picture = future.result(0)
    assert picture.shape == (64, 128, 3)
    assert picture.dtype == np.uint8
    assert [name for name, _ in device.calls] == ["text", "hint", "step", "step", "step", "decode"]


def test_free_places_go_to_who_came_first_and_are_filled_as_soon_as_they_are_free() -> None:
    device = Device(max_batch=2)
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(n, steps=steps, scale=float(n))) for n, steps in enumerate([1, 3, 2, 2])]
    loop.step()
    assert [future.done() for future in futures] == [True, False, False, False]
    assert (loop.stats().active, loop.stats().waiting) == (1, 2)
    run(loop)
    assert device.guidance == [[0, 1], [1, 2], [1, 2], [3], [3]]
    assert kinds(futures) == ["done"] * 4


def test_a_job_that_arrives_later_joins_those_that_run() -> None:
    device = Device()
    loop = RenderLoop(device)
    loop.submit(sample_spec(1, steps=4))
    loop.step()
    loop.submit(sample_spec(2, steps=4))
    run(loop)
    assert device.sizes("step") == [1, 2, 2, 2, 1]


def test_samples_of_one_job_share_what_was_encoded() -> None:
    device = Device()
    loop = RenderLoop(device)
    first = sample_spec(1)
    for sample in range(3):
        loop.submit(sample_spec(1, sample=sample, seed=sample))
    run(loop)
    loop.submit(sample_spec(2, cond_ids=first.cond_ids, edges=first.edges))
    run(loop)
    assert device.sizes("text") == [2]  # the prompt and the negative one
    assert device.sizes("hint") == [1]


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_shapes_take_turns_and_never_share_a_step() -> None:
    device = Device()
    loop = RenderLoop(device)
    for number in range(2):
        loop.submit(sample_spec(number, steps=3, size=(64, 64)))
        loop.submit(sample_spec(number, steps=3, size=(64, 128)))
    run(loop)
    assert device.shapes == [(8, 8), (8, 16)] * 3
    assert device.sizes("step") == [2] * 6


def test_a_rare_shape_does_not_starve_behind_a_common_one() -> None:
    device = Device(max_batch=2)
    loop = RenderLoop(device)
    for number in range(10):
        loop.submit(sample_spec(number, steps=5, size=(64, 64)))
    loop.step()
    rare = loop.submit(sample_spec(99, steps=4, size=(128, 64)))
    for turns in range(1, 100):
        loop.submit(sample_spec(100 + turns, steps=5, size=(64, 64)))  # and more keep coming
        loop.step()
        if rare.done():
            break
    assert turns <= 2 * 4


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 4)), min_size=1, max_size=14))
@settings(deadline=None, max_examples=60)
def test_whatever_arrives_whenever_every_sample_is_drawn_in_its_own_number_of_steps(
    arrivals: list[tuple[int, int, int]],
) -> None:
    device = Device(max_batch=3)
    loop = RenderLoop(device)
    futures = []
    for number, (steps, sides, turns_before) in enumerate(arrivals):
        for _ in range(turns_before):
            loop.step()
        futures.append(loop.submit(sample_spec(number, steps=steps, size=(64, 64 * sides))))
    run(loop)
    assert kinds(futures) == ["done"] * len(arrivals)
    assert max(device.sizes("step")) <= 3
    assert sum(device.sizes("step")) == sum(steps for steps, _, _ in arrivals) == loop.stats().sample_steps
    assert loop.stats().images == len(arrivals)


def test_a_picture_does_not_depend_on_who_shared_its_steps() -> None:
    spec = sample_spec(1, steps=4, eta=1.0)
    alone = RenderLoop(Device())
    first = alone.submit(spec)
    run(alone)
    crowded = RenderLoop(Device(max_batch=3))
    others = [crowded.submit(sample_spec(number, steps=number, eta=0.5)) for number in (2, 7)]
    crowded.step()
    second = crowded.submit(spec)
    others.append(crowded.submit(sample_spec(9)))
    run(crowded)
    assert np.array_equal(first.result(0), second.result(0))
    assert kinds(others) == ["done"] * 3


# -- cancel, drain, requeue --------------------------------------------------------------------------------------------


def test_a_cancelled_job_s_samples_leave_before_their_next_step_and_others_stay() -> None:
    device = Device(max_batch=2)
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(n, job_id=job, steps=3)) for n, job in enumerate(["a", "b", "a", "b"])]
    loop.step()
    loop.cancel("a")  # one of its samples is active, the other waits
    run(loop)
    assert kinds(futures) == ["Cancelled", "done", "Cancelled", "done"]
    assert device.sizes("step") == [2, 2, 2, 1]
    with pytest.raises(Cancelled, match="by the user"):
        futures[0].result(0)


def test_cancelling_an_unknown_job_does_nothing_and_is_forgotten() -> None:
    loop = RenderLoop(Device())
    loop.cancel("a")
    loop.step()
    future = loop.submit(sample_spec(1, job_id="a"))
    run(loop)
    assert kinds([future]) == ["done"]


def test_a_future_cannot_be_cancelled_behind_the_loop_s_back() -> None:
    loop = RenderLoop(Device())
    future = loop.submit(sample_spec(1))
    assert not future.cancel()
    run(loop)
    assert kinds([future]) == ["done"]


def test_draining_finishes_what_is_active_and_requeues_the_rest() -> None:
    loop = RenderLoop(Device(max_batch=2))
    futures = [loop.submit(sample_spec(number, steps=3)) for number in range(4)]
    loop.step()
    loop.shutdown.drain()
    futures.append(loop.submit(sample_spec(9)))
    assert kinds(futures[4:]) == ["Requeued"]  # at once
    run(loop)
    assert kinds(futures) == ["done", "done", "Requeued", "Requeued", "Requeued"]


def test_requeueing_all_ends_active_samples_too() -> None:
    device = Device()
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(number, steps=3)) for number in range(6)]
    loop.step()
    loop.shutdown.requeue_all()
    assert not loop.step()
    assert kinds(futures) == ["Requeued"] * 6
    assert device.sizes("step") == [4]
    error = futures[0].exception()
    assert isinstance(error, Requeued)
    assert error.blameless


def test_a_stopped_loop_leaves_no_future_open() -> None:
    loop = RenderLoop(Device())
    futures = [loop.submit(sample_spec(number)) for number in range(6)]
    stop = threading.Event()
    stop.set()
    loop.run(stop)
    assert kinds(futures) == ["Requeued"] * 6
    assert loop.stats().waiting == loop.stats().active == 0


@contextmanager
def running(loop: RenderLoop) -> Iterator[None]:
    """The loop in a thread of its own, ended afterwards."""
    stop = threading.Event()
    thread = threading.Thread(target=loop.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        loop.wake()
        thread.join(10)
        assert not thread.is_alive()


def test_a_running_loop_wakes_for_a_sample_and_for_its_stop() -> None:
    loop = RenderLoop(Device())
    with running(loop):
        assert loop.submit(sample_spec(1)).result(10).shape == (64, 64, 3)


@pytest.fixture
def decided_to_wait(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a loop has looked at what it has and decided to wait for more, for as long as it takes."""
    monkeypatch.setattr("worker.render.scheduler.GATHER_SECONDS", 60.0)
    decided, gathered = threading.Event(), Scheduler.gathered

    def watched(scheduler: Scheduler) -> bool:
        begins = gathered(scheduler)
        if scheduler.has_work() and not begins:
            decided.set()
        return begins

    monkeypatch.setattr(Scheduler, "gathered", watched)
    return decided


def test_an_idle_loop_waits_for_expected_samples_so_that_they_begin_together(decided_to_wait: threading.Event) -> None:
    device = Device(max_batch=4)
    loop = RenderLoop(device)
    with running(loop):
        with loop.expecting():
            futures = [loop.submit(sample_spec(1, steps=2))]
            assert decided_to_wait.wait(10)
            futures.append(loop.submit(sample_spec(2, steps=2)))
        wait(futures, 10)
    assert kinds(futures) == ["done"] * 2
    assert device.sizes("step") == [2, 2]


def test_a_loop_that_finds_a_sample_at_its_start_waits_for_those_expected(decided_to_wait: threading.Event) -> None:
    device = Device(max_batch=4)
    loop = RenderLoop(device)
    with ExitStack() as stack:
        with loop.expecting():
            futures = [loop.submit(sample_spec(1, steps=2))]
            stack.enter_context(running(loop))
            assert decided_to_wait.wait(10)
            futures.append(loop.submit(sample_spec(2, steps=2)))
        wait(futures, 10)
    assert device.sizes("step") == [2, 2]


def test_a_full_batch_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.render.scheduler.GATHER_SECONDS", 60.0)
    loop = RenderLoop(Device(max_batch=2))
    with running(loop), loop.expecting():
        futures = [loop.submit(sample_spec(number, steps=2)) for number in range(2)]
        wait(futures, 10)
        assert kinds(futures) == ["done"] * 2


def test_an_expected_job_that_takes_long_delays_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.render.scheduler.GATHER_SECONDS", 0.01)
    loop = RenderLoop(Device())
    with running(loop), loop.expecting():
        assert loop.submit(sample_spec(1)).result(10).shape == (64, 64, 3)


@pytest.mark.parametrize("end", ["requeue_all", "drain"])
def test_a_loop_that_waits_for_expected_samples_requeues_at_once(end: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worker.render.scheduler.GATHER_SECONDS", 60.0)
    loop = RenderLoop(Device())
    with running(loop), loop.expecting():
        future = loop.submit(sample_spec(1))
        getattr(loop.shutdown, end)()
        assert isinstance(future.exception(10), Requeued)


# -- what it says of itself --------------------------------------------------------------------------------------------


def test_stats_count_steps_samples_and_pictures() -> None:
    loop = RenderLoop(Device(max_batch=2))
    for number, steps in enumerate([1, 2, 2]):
        loop.submit(sample_spec(number, steps=steps))
    before = loop.stats()
    assert (before.waiting, before.active, before.images, before.busy_seconds) == (3, 0, 0, 0.0)
    run(loop)
    stats = loop.stats()
    assert (stats.waiting, stats.active, stats.steps, stats.sample_steps, stats.images) == (0, 0, 3, 5, 3)
    assert stats.batch_sizes == {2: 2, 1: 1}
    assert stats.busy_seconds > 0
    assert stats.busy_since is None


def test_stats_tell_from_within_that_a_turn_is_under_way() -> None:
    seen: list[Any] = []
    device = Device(trouble=lambda *_: seen.append(loop.stats().busy_since))
    loop = RenderLoop(device)
    loop.submit(sample_spec(1, steps=1))
    run(loop)
    assert len(seen) == 4
    assert all(since is not None for since in seen)
