"""A process decodes only so many pixels at once, and in the order in which jobs asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from jobs.errors import Requeued
from tests.eventually import eventually
from worker.image.decode_budget import DecodeBudget
from worker.shutdown import Shutdown


class Decoding(threading.Thread):
    """A job that decodes so many pixels until it is told to end."""

    def __init__(self, budget: DecodeBudget, pixels: int) -> None:
        super().__init__(daemon=True)
        self._budget = budget
        self._pixels = pixels
        self._told = threading.Event()
        self.decodes = threading.Event()
        self.error: Requeued | None = None

    def run(self) -> None:
        try:
            with self._budget.taking(self._pixels):
                self.decodes.set()
                self._told.wait(30)
        except Requeued as error:
            self.error = error

    def finish(self) -> None:
        self._told.set()
        self.join(30)


Start = Callable[[DecodeBudget, int], Decoding]


@pytest.fixture
def start() -> Iterator[Start]:
    threads: list[Decoding] = []

    def start(budget: DecodeBudget, pixels: int) -> Decoding:
        waiting = budget.waiting
        thread = Decoding(budget, pixels)
        threads.append(thread)
        thread.start()
        eventually(lambda: thread.decodes.is_set() or budget.waiting > waiting)
        return thread

    yield start
    for thread in threads:
        thread.finish()


def test_pictures_that_fit_are_decoded_together_and_others_wait(start: Start) -> None:
    budget = DecodeBudget(100)
    first, second, third = start(budget, 60), start(budget, 40), start(budget, 1)
    assert (first.decodes.is_set(), second.decodes.is_set(), third.decodes.is_set()) == (True, True, False)
    first.finish()
    assert third.decodes.wait(30)


def test_a_large_picture_is_not_overtaken_by_small_ones(start: Start) -> None:
    budget = DecodeBudget(100)
    running, large, small = start(budget, 50), start(budget, 90), start(budget, 10)
    assert not small.decodes.is_set()
    running.finish()
    assert large.decodes.wait(30)
    assert small.decodes.wait(30)


def test_a_picture_larger_than_the_whole_budget_is_decoded_alone(start: Start) -> None:
    budget = DecodeBudget(100)
    small, huge = start(budget, 1), start(budget, 10_000)
    assert not huge.decodes.is_set()
    small.finish()
    assert huge.decodes.wait(30)


def test_a_worker_that_stops_gives_back_the_jobs_that_wait(start: Start) -> None:
    shutdown = Shutdown()
    budget = DecodeBudget(100, check=shutdown.check)
    running, waiting = start(budget, 100), start(budget, 100)
    shutdown.drain()
    waiting.join(30)
    assert isinstance(waiting.error, Requeued)
    assert running.error is None
    assert budget.waiting == 0


def test_an_error_while_decoding_frees_its_share() -> None:
    budget = DecodeBudget(100)

    @contextmanager
    def failing() -> Iterator[None]:
        with budget.taking(100):
            yield
            raise ValueError

    with pytest.raises(ValueError), failing():  # noqa: PT011
        pass
    with budget.taking(100):
        pass
