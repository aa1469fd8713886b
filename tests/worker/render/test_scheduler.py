"""Who waits, who runs, whose turn it is and who leaves: by calling the scheduler, without a denoiser or torch."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.errors import Cancelled, Requeued
from tests.worker.samples import sample_spec
from tools import ROOT
from worker.render.request import RequestState
from worker.render.scheduler import Scheduler
from worker.shutdown import Shutdown

SMALL, LARGE = (64, 64), (128, 128)


class Turns:
    """A scheduler whose requests take one turn for each of their steps, as in the loop."""

    def __init__(self, *, limit: int = 2) -> None:
        self.shutdown = Shutdown()
        self.scheduler = Scheduler(lambda key: limit, self.shutdown)
        self.left: dict[str, int] = {}
        self.history: list[tuple[tuple[int, int], list[str]]] = []

    def submit(self, name: str, *, steps: int = 1, size: tuple[int, int] = SMALL) -> Future[np.ndarray]:
        self.left[name] = steps
        return self.scheduler.submit(sample_spec(job_id=name, steps=steps, size=size))

    def take(self) -> bool:
        """One turn: dismiss, admit, advance, retire. False if there was none to take."""
        self.scheduler.dismiss()
        bucket = self.scheduler.next_bucket()
        if bucket is None:
            return False
        for request in self.scheduler.admit(bucket):
            request.start(cast(Any, object()))
            bucket.running.append(request)
        step = bucket.due
        self.history.append((bucket.shape, [request.spec.job_id for request in step]))
        for request in step:
            self.left[request.spec.job_id] -= 1
            if self.left[request.spec.job_id] == 0:
                request.start_decoding()
                request.succeed(np.zeros(1))
        bucket.drop_ended()
        return True


def error(future: Future[np.ndarray]) -> type[BaseException] | None:
    exception = future.exception(0)
    return None if exception is None else type(exception)


def test_it_needs_no_torch() -> None:
    code = "import sys, worker.render.scheduler, worker.shutdown; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, timeout=60)


# -- whose turn it is --------------------------------------------------------------------------------------------------


def test_without_requests_there_is_no_turn() -> None:
    assert not Turns().take()


def test_free_places_go_to_who_came_first() -> None:
    turns = Turns(limit=2)
    for name, steps in [("a", 1), ("b", 2), ("c", 1), ("d", 1)]:
        turns.submit(name, steps=steps)
    while turns.take():
        pass
    assert [names for _, names in turns.history] == [["a", "b"], ["b", "c"], ["d"]]


def test_the_shape_whose_last_turn_is_longest_ago_is_next() -> None:
    turns = Turns()
    turns.submit("a", steps=3, size=SMALL)
    turns.submit("b", steps=3, size=LARGE)
    turns.take()
    turns.submit("c", steps=2, size=(64, 128))  # a newcomer is last in the round that it joins
    while turns.take():
        pass
    assert [shape for shape, _ in turns.history[:5]] == [SMALL, LARGE, SMALL, (64, 128), LARGE]


@given(st.lists(st.tuples(st.sampled_from([SMALL, LARGE, (64, 128)]), st.integers(1, 4)), min_size=1, max_size=12))
def test_no_shape_waits_longer_than_one_turn_of_each_other(arrivals: list[tuple[tuple[int, int], int]]) -> None:
    turns = Turns()
    futures = [turns.submit(str(n), steps=steps, size=size) for n, (size, steps) in enumerate(arrivals)]
    while turns.take():
        pass
    assert all(future.done() and future.exception(0) is None for future in futures)
    shapes = [shape for shape, _ in turns.history]
    for index, shape in enumerate(shapes):
        later = [i for i in range(index + 1, len(shapes)) if shapes[i] == shape]
        if later:
            between = shapes[index + 1 : later[0]]
            assert len(between) == len(set(between))


def test_a_halved_bucket_steps_with_its_oldest_and_admits_no_more_until_there_is_room() -> None:
    turns = Turns(limit=4)
    for name in "abcd":
        turns.submit(name, steps=3)
    turns.take()
    (bucket,) = turns.scheduler._buckets.values()
    bucket.halve(len(bucket.running))
    turns.submit("e", steps=1)
    while turns.take():
        pass
    sizes = [names for _, names in turns.history]
    assert sizes == [list("abcd"), list("ab"), list("ab"), list("cd"), list("cd"), ["e"]]


# -- who leaves --------------------------------------------------------------------------------------------------------


def test_a_cancelled_job_leaves_whether_it_waits_or_runs() -> None:
    turns = Turns(limit=1)
    futures = [turns.submit(name, steps=3) for name in ("a", "b")]
    futures.append(turns.scheduler.submit(sample_spec(job_id="a", sample=1)))
    turns.take()
    turns.scheduler.cancel("a")
    turns.scheduler.dismiss()
    assert [future.done() for future in futures] == [True, False, True]
    assert error(futures[0]) is error(futures[2]) is Cancelled
    assert turns.scheduler.count() == (1, 0)


def test_a_cancellation_is_forgotten_once_it_was_carried_out() -> None:
    turns = Turns()
    turns.scheduler.cancel("a")
    turns.scheduler.dismiss()
    future = turns.submit("a")
    turns.take()
    assert error(future) is None


def test_draining_requeues_who_waits_and_lets_who_runs_finish() -> None:
    turns = Turns(limit=1)
    runs, waits = turns.submit("a", steps=2), turns.submit("b")
    turns.take()
    turns.shutdown.drain()
    late = turns.submit("c")
    # At once: the loop may be loading an engine set for minutes.
    assert error(late) is error(waits) is Requeued
    turns.scheduler.dismiss()
    assert not runs.done()
    turns.take()
    assert error(runs) is None


def test_requeueing_ends_all_of_them_without_blame() -> None:
    turns = Turns(limit=1)
    futures = [turns.submit("a", steps=2), turns.submit("b")]
    turns.take()
    turns.shutdown.requeue_all()
    turns.scheduler.dismiss()
    for future in futures:
        reason = future.exception(0)
        assert isinstance(reason, Requeued)
        assert reason.blameless
    assert not turns.take()


# -- how long an idle loop gathers -------------------------------------------------------------------------------------


def test_an_idle_loop_has_work_once_a_request_waits() -> None:
    turns = Turns()
    assert not turns.scheduler.has_work()
    turns.submit("a")
    assert turns.scheduler.has_work()


def test_it_gathers_while_jobs_are_expected_and_a_batch_is_not_full() -> None:
    turns = Turns(limit=2)
    turns.submit("a")
    assert turns.scheduler.gathered()  # no job is about to submit
    with turns.scheduler.expecting():
        assert not turns.scheduler.gathered()
        turns.submit("b")
        assert turns.scheduler.gathered()  # full
    assert turns.scheduler.gathered()


def test_a_full_batch_of_one_shape_is_enough_and_two_halves_of_two_shapes_are_not() -> None:
    turns = Turns(limit=2)
    with turns.scheduler.expecting():
        turns.submit("a", size=SMALL)
        turns.submit("b", size=LARGE)
        assert not turns.scheduler.gathered()
        turns.submit("c", size=LARGE)
        assert turns.scheduler.gathered()


def test_as_many_jobs_must_have_submitted_as_were_expected() -> None:
    scheduler = Turns().scheduler
    with scheduler.expecting():
        with scheduler.expecting():
            pass
        assert not scheduler.gathered()
    assert scheduler.gathered()


def test_what_is_urgent_ends_the_gathering() -> None:
    for urgent in (
        lambda turns: turns.shutdown.drain(),
        lambda turns: turns.shutdown.requeue_all(),
        lambda turns: turns.scheduler.cancel("a"),
        lambda turns: turns.scheduler.interrupt(),
    ):
        turns = Turns()
        turns.submit("a")
        with turns.scheduler.expecting():
            assert not turns.scheduler.gathered()
            urgent(turns)
            assert turns.scheduler.gathered()
            if turns.scheduler.has_work():  # a stop has ended what waited
                turns.scheduler.wait(threading.Event())  # returns


def test_an_interrupted_scheduler_never_waits_again() -> None:
    scheduler = Turns().scheduler
    scheduler.interrupt()
    for _ in range(2):
        scheduler.wait(threading.Event())
        scheduler.dismiss()


def test_a_stop_ends_the_wait() -> None:
    stop = threading.Event()
    stop.set()
    Turns().scheduler.wait(stop)


def test_a_request_waits_until_it_is_started() -> None:
    turns = Turns()
    turns.submit("a")
    bucket = turns.scheduler.next_bucket()
    assert bucket is not None
    (request,) = turns.scheduler.admit(bucket)
    assert request.state is RequestState.WAITING
    assert bucket.running == []  # the loop adds those that it could start
