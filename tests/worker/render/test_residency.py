"""Which engine sets are on the device and whose turn ends: by a clock that the tests set, without engines or torch."""

from __future__ import annotations

import itertools
from typing import Any, cast

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.worker.samples import sample_spec
from worker.render.memory_limit import IN_VAIN_SECONDS, MAX_WAIT_SECONDS, WAIT_SECONDS, MemoryLimit
from worker.render.request import ImageRequest
from worker.render.residency import TURN_RELOADS, Residency, Work
from worker.render.scheduler import PATIENCE, Scheduler
from worker.shutdown import Shutdown

BUSY, RUNS, OWES = Work(), Work(runs=True), Work(runs=True, owes=True)
RELOAD = 2.0
TURN = TURN_RELOADS * RELOAD


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def limited(*held: str, limit: int = 2) -> tuple[Residency, Clock]:
    """A residency with room for so many sets, and these on the device since now."""
    clock = Clock()
    residency = Residency(limit=limit, reload_seconds=lambda _: RELOAD, now=clock)
    for engine_set in held:
        residency.arrived(engine_set)
    return residency, clock


def test_where_all_fit_each_set_with_work_may_step() -> None:
    assert Residency().may_step({"a": BUSY, "b": RUNS}) == {"a", "b"}
    assert Residency().leaving == ()


def test_a_set_that_fits_arrives_at_once_and_nobody_leaves() -> None:
    residency, _ = limited("a")
    assert residency.may_step({"a": RUNS, "b": BUSY}) == {"b"}
    assert residency.leaving == ()


def test_a_set_that_does_not_fit_waits_until_a_turn_has_lasted_twenty_reloads() -> None:
    residency, clock = limited("a", "b")
    work = {"a": BUSY, "b": BUSY, "c": BUSY}
    clock.now += TURN - 0.1
    assert residency.may_step(work) == {"a", "b"}
    clock.now += 0.2
    assert residency.may_step(work) == {"c"}
    assert residency.leaving == ("a",)  # its turn began first
    assert (residency.end_of_turn("a"), residency.end_of_turn("b")) == ("lasted", "memory")


def test_a_set_that_leaves_finishes_what_runs() -> None:
    residency, clock = limited("a", "b")
    clock.now += TURN
    assert residency.may_step({"a": RUNS, "b": RUNS, "c": BUSY}) == {"a", "b"}
    assert residency.leaving == ("a",)
    assert residency.may_step({"a": BUSY, "b": RUNS, "c": BUSY}) == {"c"}


def test_a_turn_does_not_end_before_those_that_waited_for_it_were_admitted() -> None:
    residency, clock = limited("a", "b")
    clock.now += 2 * TURN
    assert residency.may_step({"a": OWES, "b": OWES, "c": BUSY}) == {"a", "b"}
    assert residency.leaving == ()


def test_of_sets_without_work_the_least_recently_used_leaves() -> None:
    residency, clock = limited("a", "b", "c", limit=3)
    clock.now += TURN
    for engine_set in ("b", "a"):
        clock.now += 1
        residency.used(engine_set)
    assert residency.may_step({"c": RUNS, "d": BUSY}) == {"d"}
    assert residency.leaving == ("b",)


def test_while_one_on_the_device_is_busy_an_idle_one_keeps_its_turn() -> None:
    residency, clock = limited("a", "b")
    clock.now += TURN / 2
    assert residency.may_step({"a": RUNS, "c": BUSY}) == {"a"}


def test_a_device_is_not_idle_for_longer_than_a_reload_while_another_set_waits() -> None:
    residency, clock = limited("a", "b")
    clock.now += 1
    residency.used("b")
    assert residency.may_step({"c": BUSY}) == {"c"} - {"c"}
    clock.now += RELOAD
    assert residency.may_step({"c": BUSY}) == {"c"}
    assert residency.leaving == ("a",)
    assert residency.end_of_turn("a") == "idle"


def test_costs_are_added_and_a_set_that_is_too_large_is_alone() -> None:
    clock = Clock()
    costs = {"small": 1, "other": 1, "large": 3, "huge": 9}
    residency = Residency(costs, limit=4, reload_seconds=lambda _: RELOAD, now=clock)
    for engine_set in ("small", "large"):
        assert residency.may_step({engine_set: BUSY}) == {engine_set}
        residency.arrived(engine_set)
    clock.now += TURN
    assert residency.may_step({"large": RUNS, "other": BUSY}) == {"other"}
    assert residency.leaving == ("small",)
    residency.may_step({"huge": BUSY})
    assert set(residency.leaving) == {"small", "large"}


def test_memory_that_was_too_short_for_all_makes_fewer_fit_from_then_on() -> None:
    clock = Clock()
    residency = Residency(reload_seconds=lambda _: RELOAD, now=clock)
    for engine_set in ("a", "b", "c"):
        residency.arrived(engine_set)
        clock.now += 1
    assert residency.shrink("d") == "a"
    residency.left("a")
    residency.arrived("d")
    assert residency.is_limited
    assert residency.may_step({"a": BUSY, "b": RUNS, "c": RUNS, "d": RUNS}) == {"b", "c", "d"}
    assert residency.shrink("d") in ("b", "c")


def test_a_set_that_is_alone_has_nobody_to_make_room() -> None:
    assert Residency().shrink("a") is None


def held_by(residency: Residency, *names: str) -> list[str]:
    return [name for name in names if residency.holds(name)]


def fail(residency: Residency, arriving: str, cause: str, *, times: int) -> list[str | None]:
    """Memory is short so many times in a row, each time after a set has left."""
    first = []
    for _ in range(times):
        first.append(residency.shrink(arriving, cause=cause))
        if first[-1] is not None:
            residency.left(first[-1])
    return first


def three(limit: int | None = None) -> tuple[Residency, Clock]:
    clock = Clock()
    residency = Residency(limit=limit, reload_seconds=lambda _: RELOAD, now=clock)
    for engine_set in ("a", "b", "c"):
        residency.arrived(engine_set)
        clock.now += 1
    return residency, clock


def test_what_does_not_fit_even_alone_lowers_the_limit_for_nobody() -> None:
    residency, _ = three()
    assert fail(residency, "c", "a huge picture", times=3) == ["a", "b", None]
    assert not residency.is_limited
    assert residency.may_step({"a": BUSY, "b": BUSY, "c": RUNS}) == {"a", "b", "c"}


def test_for_a_while_no_set_leaves_for_what_did_not_fit_even_alone() -> None:
    residency, clock = three()
    fail(residency, "c", "a huge picture", times=3)
    residency.arrived("a")
    assert residency.shrink("c", cause="a huge picture") is None
    assert residency.shrink("c", cause="another picture") == "a"
    clock.now += IN_VAIN_SECONDS
    assert residency.shrink("c", cause="a huge picture") == "a"


def test_a_failure_in_vain_keeps_what_other_failures_taught() -> None:
    residency, _ = three()
    assert fail(residency, "c", "a large picture", times=1) == ["a"]  # then it fits
    assert fail(residency, "c", "a huge picture", times=2) == ["b", None]
    assert residency.may_step({"a": BUSY, "b": BUSY, "c": BUSY}) == {"a"}
    residency.arrived("a")
    assert residency.may_step({"a": BUSY, "b": BUSY, "c": BUSY}) == {"a", "c"}  # two fit, as the first failure taught


def test_a_lowered_limit_comes_back_step_by_step() -> None:
    residency, clock = three()
    assert fail(residency, "c", "a large picture", times=2) == ["a", "b"]  # then it fits
    work = {"a": OWES, "b": OWES, "c": OWES}
    seen = []
    for _ in range(4):
        for engine_set in residency.may_step(work) - {"c"}:
            residency.arrived(engine_set)
        seen.append(held_by(residency, "a", "b", "c"))
        clock.now += WAIT_SECONDS
    assert seen == [["c"], ["a", "c"], ["a", "b", "c"], ["a", "b", "c"]]
    assert not residency.is_limited


def test_the_limit_that_was_given_is_never_exceeded() -> None:
    residency, clock = three(limit=3)
    fail(residency, "c", "a large picture", times=1)
    for _ in range(9):
        clock.now += MAX_WAIT_SECONDS
        residency.may_step({"c": RUNS})
    residency.arrived("a")
    assert residency.may_step({"a": OWES, "b": OWES, "c": OWES, "d": BUSY}) == {"a", "b", "c"}


def test_a_limit_that_was_raised_too_early_is_raised_later_the_next_time() -> None:
    limit = MemoryLimit(None, now=(clock := Clock()))
    waits = []
    for _ in range(9):
        limit.lower(1, cause="a picture")
        began = clock.now
        while limit.value is not None:
            clock.now += WAIT_SECONDS / 4
            limit.recover()
        waits.append((clock.now - began) / WAIT_SECONDS)
        clock.now += 1
    assert waits == [1, 2, 4, 8, 16, 32, 60, 60, 60]
    clock.now += MAX_WAIT_SECONDS  # it holds
    limit.lower(1, cause="a picture")
    clock.now += WAIT_SECONDS
    limit.recover()
    assert limit.value is None


# -- the scheduler with it ---------------------------------------------------------------------------------------------

Arrival = tuple[int, int, int, int]  # turns before it, its set, its side in 64 pixels, its steps


class Turns:
    """A scheduler whose steps take a second and whose sets come and go as in the loop."""

    def __init__(self, *, limit: int | None, batch: int = 2) -> None:
        self.clock = Clock()
        self.residency = Residency(limit=limit, reload_seconds=lambda _: 0.5, now=self.clock)
        self.scheduler = Scheduler(lambda key: batch, Shutdown(), self.residency)
        self.left: dict[ImageRequest, int] = {}
        self.arrivals: list[frozenset[str]] = []  # the sets on the device after each of them
        self.stays: list[tuple[float, bool]] = []  # of each set that left: seconds, and whether any set had work
        self.began: dict[str, float] = {}
        self.started: dict[str, int] = {}  # job -> arrivals before it was admitted

    def next_shape(self) -> tuple[str, tuple[int, int]]:
        """Take a turn; the set and the shape whose turn it was."""
        before = {bucket: bucket.last_turn for bucket in self.scheduler._buckets.values()}
        assert self.take()
        (bucket,) = (each for each in self.scheduler._buckets.values() if each.last_turn != before.get(each))
        return bucket.key.engine_set, bucket.shape

    def next_set(self) -> str:
        """Take a turn; the set whose turn it was."""
        return self.next_shape()[0]

    def take(self) -> bool:
        self.scheduler.dismiss()
        self.clock.now += 1
        bucket = self.scheduler.next_bucket()
        if bucket is None:
            return False
        engine_set = bucket.key.engine_set
        if not self.residency.holds(engine_set):
            others_work = bool(self.scheduler._work().keys() & self.residency._turns.keys())
            for other in self.scheduler.leaving():
                assert self.scheduler.left(other) == self.clock.now - self.began[other]
                self.stays.append((self.clock.now - self.began[other], others_work))
            self.scheduler.arrived(engine_set)
            self.arrivals.append(frozenset(self.residency._turns))
            self.began[engine_set] = self.clock.now
        for request in self.scheduler.admit(bucket):
            self.started[request.spec.job_id] = len(self.arrivals)
            self.left[request] = request.spec.steps
            request.start(cast(Any, object()))
            bucket.running.append(request)
        for request in bucket.due:
            self.left[request] -= 1
            if self.left[request] == 0:
                request.start_decoding()
                request.succeed(np.zeros(1))
        bucket.drop_ended()
        return True


@given(
    st.integers(1, 3),
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 4), st.integers(1, 2), st.integers(1, 5)), min_size=1, max_size=40
    ),
)
def test_no_request_waits_for_more_turns_than_there_are_sets_that_do_not_fit(
    limit: int, arrivals: list[Arrival]
) -> None:
    turns = Turns(limit=limit)
    submitted: dict[str, tuple[str, int]] = {}
    futures = []
    for number, (wait, engine_set, side, steps) in enumerate(arrivals):
        for _ in range(wait):
            turns.take()
        spec = sample_spec(number, engine_set=f"set {engine_set}", size=(64, 64 * side), steps=steps)
        submitted[spec.job_id] = spec.engine_set, len(turns.arrivals)
        futures.append(turns.scheduler.submit(spec))
    for _ in range(5000):
        turns.take()
        if all(future.done() for future in futures):
            break
    assert all(future.done() for future in futures)
    most = max(0, len({name for name, _ in submitted.values()}) - limit)
    for job, (own, before) in submitted.items():
        # The first `limit` sets find room beside those that are there, and take nobody's turn.
        meanwhile = turns.arrivals[max(limit, before) : turns.started[job]]
        while_away = [held for held in meanwhile if own not in held]
        assert len(while_away) <= most, (job, while_away)
    assert all(seconds >= TURN_RELOADS * 0.5 or not others_work for seconds, others_work in turns.stays)


def test_of_several_sets_one_that_fills_its_batch_steps_first_until_another_has_waited_long_enough() -> None:
    turns = Turns(limit=3, batch=4)
    for number, engine_set in enumerate("aaaabbbbc"):
        turns.scheduler.submit(sample_spec(number, engine_set=engine_set, steps=50))
    steps = "".join(turns.next_set() for _ in range(28))
    assert steps[:3] == "abc"  # each is brought in
    assert steps[3:9] == "ababab"  # full ones take turns
    assert list(map(len, steps.split("c"))) == [2, *[PATIENCE * 3] * 3, 4]
    for number in range(9, 12):
        turns.scheduler.submit(sample_spec(number, engine_set="c", steps=50))
    assert sorted(turns.next_set() for _ in range(3)) == ["a", "b", "c"]  # it is full as well


def test_the_shapes_of_one_set_take_turns_by_age_however_full_they_are() -> None:
    turns = Turns(limit=2, batch=4)
    for number in range(4):
        turns.scheduler.submit(sample_spec(number, engine_set="a", steps=50))
    turns.scheduler.submit(sample_spec(4, engine_set="a", size=(64, 128), steps=50))
    turns.scheduler.submit(sample_spec(5, engine_set="b", steps=50))
    shapes = [turns.next_shape() for _ in range(40)]
    of_a = [shape for engine_set, shape in shapes if engine_set == "a"]
    assert all(one != other for one, other in itertools.pairwise(of_a))


def test_a_set_that_leaves_is_not_passed_over_for_its_empty_places() -> None:
    turns = Turns(limit=2, batch=4)
    for number, engine_set in enumerate("abbbb"):
        turns.scheduler.submit(sample_spec(number, engine_set=engine_set, steps=50))
    while not {"a", "b"} <= turns.residency._turns.keys():
        turns.take()
    turns.clock.now += 100
    turns.scheduler.submit(sample_spec(9, engine_set="c", steps=1))
    steps = [turns.next_set() for _ in range(10)]
    assert turns.scheduler.leaving() == ("a",)
    assert steps.count("a") == 5


def test_requests_of_sets_that_wait_for_their_turn_are_parked_jobs() -> None:
    turns = Turns(limit=1)
    for number, engine_set in enumerate("aabbb"):
        turns.scheduler.submit(sample_spec(number, engine_set=engine_set, steps=50))
    turns.scheduler.submit(sample_spec(4, engine_set="b", sample=1, steps=50))
    turns.take()
    assert turns.scheduler.parked() == 3
    assert turns.scheduler.parked(wanted=2) == 5  # those that are away fill no batch here
    assert turns.scheduler.count_by_set() == {"a": (0, 2), "b": (4, 0)}


def test_nothing_is_parked_where_there_is_one_set() -> None:
    turns = Turns(limit=None)
    for number in range(9):
        turns.scheduler.submit(sample_spec(number, engine_set="a"))
    turns.take()
    assert turns.scheduler.parked() == 0
    assert turns.scheduler.parked(wanted=4) == 4


def test_of_sets_that_fit_together_only_the_jobs_of_the_one_with_the_most_count() -> None:
    turns = Turns(limit=None)
    for number, engine_set in enumerate("aaaabbc"):
        turns.scheduler.submit(sample_spec(number, engine_set=engine_set, steps=50))
    turns.scheduler.submit(sample_spec(5, engine_set="b", sample=1, steps=50))  # of a job that is there
    while turns.residency._turns.keys() != set("abc"):
        turns.take()
    assert turns.scheduler.count_by_set() == {"a": (2, 2), "b": (1, 2), "c": (0, 1)}
    assert turns.scheduler.parked() == 3  # two jobs of b and one of c
    assert turns.scheduler.parked(wanted=2) == 3  # those jobs fill the batches
    assert turns.scheduler.parked(wanted=8) == 8


def test_a_stopping_worker_gives_back_what_waits_for_a_turn() -> None:
    turns = Turns(limit=1)
    turns.scheduler.submit(sample_spec(1, engine_set="a", steps=3))
    turns.take()
    waits = turns.scheduler.submit(sample_spec(2, engine_set="b"))
    turns.scheduler._shutdown.drain()
    assert turns.scheduler.has_work()
    turns.scheduler.dismiss()
    assert waits.done()
