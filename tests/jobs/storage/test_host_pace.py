"""When a host may be asked again, from what it answers."""

from __future__ import annotations

import pytest

from jobs.storage.host_pace import LONGEST_OWN_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS, HostPace


def refused_in_a_row(pace: HostPace, times: int, pause_seconds: float | None = None) -> list[float]:
    """The pauses that follow, each asked for as soon as the one before is over."""
    pauses = []
    for _ in range(times):
        now = pace.next_at
        pace.refused(now, pace.started(now), pause_seconds=pause_seconds)
        pauses.append(pace.opens_at - now)
    return pauses


def serve(pace: HostPace, times: int) -> None:
    for _ in range(times):
        now = pace.next_at
        pace.served(now, pace.started(now))


def test_a_host_that_never_refuses_is_never_slowed_down() -> None:
    pace = HostPace(8)
    serve(pace, 1000)
    assert (pace.at_once, pace.next_at) == (8, 0.0)


def test_a_pause_is_what_the_host_asks_for_and_never_less() -> None:
    assert refused_in_a_row(HostPace(8), 1, 30.0) == [30.0]
    assert refused_in_a_row(HostPace(8), 1, 0.0) == [1.0]


def test_without_a_time_the_pauses_grow_up_to_a_minute() -> None:
    assert refused_in_a_row(HostPace(8), 9) == [1, 2, 4, 8, 16, 32, *[LONGEST_OWN_PAUSE_SECONDS] * 3]


def test_no_host_closes_itself_for_ever() -> None:
    assert refused_in_a_row(HostPace(8), 1, 1e12) == [LONGEST_PAUSE_SECONDS]


def test_several_requests_under_way_are_one_refusal() -> None:
    pace = HostPace(8)
    periods = [pace.started(0.0) for _ in range(8)]
    for period in periods:
        pace.refused(0.1, period, pause_seconds=None)
    assert pace.opens_at == pytest.approx(1.1)


def test_a_later_time_among_them_holds() -> None:
    pace = HostPace(8)
    periods = [pace.started(0.0), pace.started(0.0), pace.started(0.0)]
    for period, seconds in zip(periods, (5.0, 20.0, 10.0), strict=True):
        pace.refused(0.0, period, pause_seconds=seconds)
    assert pace.opens_at == 20.0


def test_a_host_that_refused_is_asked_by_one_at_a_time_and_at_the_pace_at_which_it_served() -> None:
    pace = HostPace(8)
    serve(pace, 10)
    refused_in_a_row(pace, 1, 10.0)
    assert (pace.at_once, pace.spacing_seconds) == (1, 1.0)  # ten in ten seconds


def test_ten_answers_in_a_row_allow_one_more_and_twice_the_speed() -> None:
    pace = HostPace(3)
    serve(pace, 10)
    refused_in_a_row(pace, 1, 10.0)
    serve(pace, 10)
    assert (pace.at_once, pace.spacing_seconds) == (2, 0.5)
    serve(pace, 100)
    assert (pace.at_once, pace.spacing_seconds) == (3, 0.0)


def test_a_host_that_is_overloaded_is_asked_more_slowly_without_a_pause() -> None:
    pace = HostPace(8)
    for second in range(20):
        pace.served(float(second), pace.started(float(second)))
    pace.overloaded(20.0, pace.started(20.0))
    assert (pace.at_once, pace.spacing_seconds, pace.opens_at) == (1, 1.0, 0.0)
    pace.overloaded(21.0, pace.started(21.0))  # nothing was served since, so nothing is learned
    assert pace.spacing_seconds == 1.0


def test_a_long_outage_after_a_few_answers_is_not_taken_for_a_pace() -> None:
    pace = HostPace(8)
    serve(pace, 3)
    refused_in_a_row(pace, 1, 600.0)
    assert pace.spacing_seconds == 2.0


def test_the_next_pause_begins_near_the_one_that_was_enough() -> None:
    pace = HostPace(8)
    assert refused_in_a_row(pace, 4) == [1, 2, 4, 8]
    serve(pace, 1)
    assert refused_in_a_row(pace, 2) == [4, 8]


def test_late_answers_to_requests_from_before_a_refusal_teach_nothing() -> None:
    pace = HostPace(8)
    early = pace.started(0.0)
    refused_in_a_row(pace, 3)
    for _ in range(20):
        pace.served(1.0, early)
    assert pace.at_once == 1
    assert pace.serves(1.0)


def test_a_host_that_served_nothing_for_an_hour_does_not_serve() -> None:
    pace = HostPace(8)
    assert not pace.serves(0.0)
    serve(pace, 1)
    assert pace.serves(3599.0)
    assert not pace.serves(3600.0)
