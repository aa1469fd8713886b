"""A duty goes on whatever becomes of a turn, and says when only a restart helps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from jobs.errors import LedgerUnavailable
from producer.keep.duty import Duty, Sleep, Work
from tests.eventually import eventually


class Turns:
    """What a duty did. `errors` are raised by its next turns."""

    def __init__(self) -> None:
        self.taken = 0
        self.failed: list[str] = []
        self.errors: list[Exception] = []
        self.sleeps = 0.0
        self.woken = threading.Event()

    def take(self, sleep: Sleep) -> None:
        self.taken += 1
        if self.errors:
            raise self.errors.pop()
        if self.sleeps:
            sleep(self.sleeps)
            self.woken.set()


@pytest.fixture
def turns() -> Turns:
    return Turns()


@pytest.fixture
def begin(turns: Turns) -> Iterator[Callable[..., Duty]]:
    with ExitStack() as stack:

        def begin(turn_seconds: float = 60.0) -> Duty:
            duty = Duty(Work("test", turns.take, lambda: 0.001, turns.failed.append, turn_seconds))
            stack.callback(duty.join, 60)
            stack.callback(duty.stop)
            duty.start()
            return duty

        yield begin


def test_turn_after_turn(turns: Turns, begin: Callable[..., Duty]) -> None:
    duty = begin()
    eventually(lambda: turns.taken > 3)
    assert duty.trouble() is None
    assert turns.failed == []


def test_redis_away_and_faults_of_our_own_are_reported_and_tried_again(
    turns: Turns, begin: Callable[..., Duty]
) -> None:
    turns.errors = [ValueError("a secret"), LedgerUnavailable("Redis does not answer")]
    duty = begin()
    eventually(lambda: turns.taken > 3)
    assert turns.failed == [
        "Redis does not answer",
        "a fault of this program, which its log has: ValueError",
    ]
    assert duty.trouble() is None


def test_a_turn_that_sleeps_is_given_up_and_not_woken_early(turns: Turns, begin: Callable[..., Duty]) -> None:
    turns.sleeps = 3600.0
    duty = begin()
    eventually(lambda: turns.taken == 1)
    duty.stop()
    duty.join(60)
    assert not turns.woken.is_set()
    assert duty.trouble() == "the thread 'test' has ended"


def test_a_turn_that_does_not_end(turns: Turns, begin: Callable[..., Duty]) -> None:
    turns.sleeps = 3600.0
    duty = begin(turn_seconds=0.01)
    eventually(lambda: duty.trouble() is not None)
    assert duty.trouble() == "a turn of 'test' has taken more than 0 s"
