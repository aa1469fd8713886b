"""What /metrics says, and what it leaves out."""

from __future__ import annotations

import pytest
from prometheus_client import CollectorRegistry

from jobs.ledger.ledger import Ledger
from jobs.ledger.reconcile import Reconciled
from jobs.ledger.records import WorkerFacts
from producer.keep.board import Board
from producer.keep.metrics import KeepCollector
from producer.keep.observation import observe
from tests.jobs.rows import enqueue, make_jobs, make_result

ALWAYS = {
    "render_redis_up",
    "render_reconcile_age_seconds",
    "render_reconcile_pass_seconds",
    "render_reconcile_requeued_total",
    "render_reconcile_failures_total",
}


def scraped(board: Board) -> dict[str, float]:
    registry = CollectorRegistry()
    registry.register(KeepCollector(board))
    return {
        sample.name + "".join(f"[{value}]" for value in sample.labels.values()): sample.value
        for metric in registry.collect()
        for sample in metric.samples
    }


@pytest.fixture
def board() -> Board:
    return Board()


def test_before_the_first_look_only_what_is_known(board: Board) -> None:
    values = scraped(board)
    assert set(values) == ALWAYS
    assert values["render_redis_up"] == 0


def test_an_empty_redis(board: Board, ledger: Ledger) -> None:
    board.note(observe(ledger))
    values = scraped(board)
    assert values["render_redis_up"] == 1
    assert values["render_queue_messages"] == values["render_queue_oldest_seconds"] == 0
    assert values["render_workers[ready]"] == values["render_workers[paused]"] == values["render_open_batches"] == 0


def test_queue_workers_and_open_batches(board: Board, ledger: Ledger) -> None:
    ended, opened = make_jobs(2, batch="ended"), make_jobs(5, batch="opened")
    enqueue(ledger, ended)
    enqueue(ledger, opened)
    for job, state in [*zip(ended, ["done", "failed"], strict=True), *zip(opened, ["done", "failed"], strict=False)]:
        ledger.start(job, worker="w")
        ledger.finish(make_result(job, state))
    ledger.start(opened[2], worker="w")
    ledger.defer(opened[3], worker="w", seconds=60, refund=True)
    ledger.client.hset("unacked", "tag", "message")
    ledger.beat("w", in_flight=[], lease_seconds=60)
    ledger.beat("p", in_flight=[], lease_seconds=60, facts=WorkerFacts(paused="its disk is full"))
    board.note(observe(ledger))
    values = scraped(board)
    assert values["render_queue_messages"] == 7
    assert values["render_queue_unacknowledged"] == values["render_queue_delayed"] == 1
    assert values["render_workers[ready]"] == values["render_workers[paused]"] == 1
    assert values["render_open_batches"] == 1
    jobs = {state: values[f"render_open_jobs[{state}]"] for state in ("queued", "running", "done", "failed")}
    assert jobs == {"queued": 2, "running": 1, "done": 1, "failed": 1}


def test_what_is_not_known_any_more_is_left_out(board: Board, ledger: Ledger) -> None:
    board.note(observe(ledger))
    board.note_away("Redis does not answer")
    values = scraped(board)
    assert set(values) == ALWAYS
    assert values["render_redis_up"] == 0


def test_a_look_without_an_answer_is_redis_away(board: Board, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    board.note(observe(ledger))
    monkeypatch.setattr("producer.keep.board.ANSWER_SECONDS", -1.0)
    board.note_look()
    assert scraped(board)["render_redis_up"] == 0
    assert "has not answered" in board.redis.why


def test_passes_are_counted(board: Board) -> None:
    board.note_pass(Reconciled(restored=2, requeued=3, failures={"b": "damaged"}), whole=True)
    board.note_failure()
    values = scraped(board)
    assert values["render_reconcile_requeued_total"] == 5
    assert values["render_reconcile_failures_total"] == 2


def test_a_whole_pass_says_how_long_it_took(board: Board) -> None:
    assert scraped(board)["render_reconcile_pass_seconds"] == 0
    board.note_pass(Reconciled(), whole=True, seconds=12.5)
    board.note_pass(Reconciled(), whole=False)
    board.note_failure()
    assert scraped(board)["render_reconcile_pass_seconds"] == 12.5


def test_workers_that_ended_by_themselves_are_counted_from_zero(board: Board, ledger: Ledger) -> None:
    """Prometheus does not see the increase of a counter that first appears with a value."""
    board.note(observe(ledger))
    reasons = ("engines_refused", "device_lost", "failed")
    assert [scraped(board)[f"render_worker_exits_total[{reason}]"] for reason in reasons] == [0, 0, 0]
    ledger.count_exit("device_lost")
    board.note(observe(ledger))
    assert [scraped(board)[f"render_worker_exits_total[{reason}]"] for reason in reasons] == [0, 1, 0]
