"""Backoff: transient errors are tried again, with growing pauses; others are not."""

from __future__ import annotations

import pytest

from jobs.errors import SourceNotFound, SourceUnavailable, TransientError
from jobs.storage.retry import with_backoff


class Flaky:
    """Fails as often as told, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_a_call_that_recovers_gives_its_answer_after_growing_pauses() -> None:
    pauses: list[float] = []
    flaky = Flaky(SourceUnavailable("1"), SourceUnavailable("2"))
    answer = with_backoff(flaky, attempts=4, base_seconds=0.5, sleep=pauses.append, uniform=lambda low, high: 1.0)
    assert answer == "answer"
    assert pauses == [0.5, 1.0]


def test_the_last_error_passes_when_every_attempt_failed() -> None:
    flaky = Flaky(*[SourceUnavailable(str(n)) for n in range(9)])
    with pytest.raises(TransientError, match="2"):
        with_backoff(flaky, attempts=3, base_seconds=0, sleep=lambda seconds: None)
    assert flaky.calls == 3


def asking(seconds: float, *, blameless: bool = False) -> SourceUnavailable:
    error = SourceUnavailable("not now")
    error.retry_after_seconds, error.blameless = seconds, blameless
    return error


def test_a_pause_is_at_least_what_the_other_side_asks_for() -> None:
    pauses: list[float] = []
    flaky = Flaky(asking(3.0), asking(0.1))
    with_backoff(flaky, attempts=4, base_seconds=0.5, sleep=pauses.append, uniform=lambda low, high: 1.0)
    assert pauses == [3.0, 1.0]


@pytest.mark.parametrize("error", [asking(100.0), asking(0.0, blameless=True)])
def test_who_asks_for_a_long_pause_or_let_us_wait_already_is_not_asked_again_here(error: SourceUnavailable) -> None:
    flaky = Flaky(error)
    with pytest.raises(SourceUnavailable):
        with_backoff(flaky, attempts=4, base_seconds=0.5, sleep=lambda seconds: pytest.fail("it paused"))
    assert flaky.calls == 1


def test_a_permanent_error_is_not_tried_again() -> None:
    flaky = Flaky(SourceNotFound("gone"))
    with pytest.raises(SourceNotFound):
        with_backoff(flaky, attempts=3, base_seconds=0)
    assert flaky.calls == 1
