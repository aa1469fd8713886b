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


def test_a_permanent_error_is_not_tried_again() -> None:
    flaky = Flaky(SourceNotFound("gone"))
    with pytest.raises(SourceNotFound):
        with_backoff(flaky, attempts=3, base_seconds=0)
    assert flaky.calls == 1
