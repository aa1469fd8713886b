"""What the keeper does besides reconciling: it says whether it is stuck, and lets old batches leave."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from structlog.testing import capture_logs

from jobs.errors import LedgerUnavailable
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from producer.keep import board as board_module
from producer.keep import keeper as module
from producer.keep.board import Board
from producer.keep.keeper import Keeper
from producer.keep.paces import Paces
from producer.session import Session
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_jobs, make_result


class KeepsDays(Settings):
    """With RENDER_KEEP_DAYS."""

    keep_days: float | None = 30.0


@contextmanager
def keeping(ledger: Ledger, settings: Settings) -> Iterator[tuple[Keeper, Board]]:
    board = Board()
    keeper = Keeper(Session(settings, ledger), board, Paces(ledger))
    keeper.start()
    try:
        yield keeper, board
    finally:
        keeper.stop()


@pytest.fixture
def pruned(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The ages that `producer.prune.prune` was asked for."""
    asked: list[float] = []

    def record(ledger: Ledger, *, older_than_days: float) -> list[str]:
        asked.append(older_than_days)
        return ["old"]

    monkeypatch.setattr(module, "prune", record)
    return asked


def test_old_batches_leave_once_an_hour(ledger: Ledger, pruned: list[float]) -> None:
    with keeping(ledger, KeepsDays(reconcile_seconds=0.01)) as (keeper, board):
        eventually(lambda: pruned and board.reconcile_age_seconds < 1)
        assert keeper.live().ok
    assert pruned == [30.0]


def test_nothing_leaves_unless_asked(ledger: Ledger, pruned: list[float]) -> None:
    with keeping(ledger, Settings(reconcile_seconds=0.01)) as (_, board):
        eventually(lambda: board.observation)
    assert pruned == []


def test_a_whole_pass_is_timed(ledger: Ledger) -> None:
    with keeping(ledger, Settings(reconcile_seconds=0.01)) as (_, board):
        eventually(lambda: board.reconcile_pass_seconds > 0)


def test_a_prune_that_fails_stops_nothing_else(
    ledger: Ledger, pruned: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "prune", None)
    with keeping(ledger, KeepsDays(reconcile_seconds=0.01)) as (keeper, _):
        enqueue(ledger, make_jobs(2))
        ledger.client.delete(ledger.queue)
        eventually(lambda: ledger.queue_length() == 2)
        assert keeper.live().ok
        eventually(lambda: keeper.ready().ok)


def test_a_turn_that_takes_minutes_is_stuck(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TURN_SECONDS", -1.0)
    monkeypatch.setattr(module, "observe", lambda *_, **__: eventually(lambda: False, seconds=2))
    with keeping(ledger, Settings(reconcile_seconds=0.01)) as (keeper, _):
        eventually(lambda: not keeper.live().ok)
        assert "'observe' has taken more than" in keeper.live().why


def test_redis_that_is_away_is_logged_once_also_where_it_keeps_its_clients_waiting(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While a look waits, the board gives another reason than the one with which the look ends."""
    looks: list[str] = []

    def wait(*_: object, **__: object) -> None:
        looks.append("look")
        raise LedgerUnavailable("Redis does not answer (TimeoutError)")

    monkeypatch.setattr(board_module, "ANSWER_SECONDS", -1.0)
    monkeypatch.setattr(module, "observe", wait)
    with capture_logs() as lines, keeping(ledger, Settings(reconcile_seconds=0.01)):
        eventually(lambda: len(looks) > 3)
    assert [line["error"] for line in lines if line["event"] == "redis_away"] == [
        "Redis does not answer (TimeoutError)"
    ]


def test_rate_and_time_left_of_a_batch_that_is_rendered(ledger: Ledger) -> None:
    jobs = make_jobs(40)
    enqueue(ledger, jobs)
    paces = Paces(ledger)
    board = Board()
    keeper = Keeper(Session(Settings(reconcile_seconds=0.01), ledger), board, paces)
    keeper.start()
    try:
        for job in jobs[:20]:
            seen = board.observation
            ledger.start(job, worker="w")
            ledger.finish(make_result(job).model_copy(update={"samples": ("a", "b", "c")}))
            eventually(lambda seen=seen: board.observation is not seen)  # type: ignore[misc]
        pace = paces.of("b")
        assert pace.pictures_a_second is not None
        assert pace.seconds_left is not None
        assert pace.pictures_a_second * pace.seconds_left == pytest.approx(3 * 20, rel=0.5)
        assert paces.of("none").pictures_a_second is None
    finally:
        keeper.stop()
