"""Metrics of `producer keep`, from the board. A scrape does not query Redis, and leaves out what is not known now.

docs/operations.md lists names, labels and units; a test compares the two.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from producer.console import STATES
from producer.keep.board import Board
from producer.keep.observation import Observation


class KeepCollector:
    """Reads the board at each scrape."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """Prometheus calls this at each scrape."""
        board, redis = self._board, self._board.redis
        yield _gauge("render_redis_up", "1 while Redis answers.", float(redis.is_up))
        yield _gauge("render_reconcile_age_seconds", "Seconds since a whole pass ended.", board.reconcile_age_seconds)
        yield _gauge("render_reconcile_pass_seconds", "Seconds of the last whole pass.", board.reconcile_pass_seconds)
        totals = board.totals
        yield CounterMetricFamily("render_reconcile_requeued", "Jobs queued again.", value=totals.requeued)
        yield CounterMetricFamily("render_reconcile_failures", "Failures to reconcile.", value=totals.failures)
        if redis.is_up and board.observation is not None:
            yield from _queue(board.observation)
            yield from _batches(board.observation)

    def describe(self) -> Iterator[Metric]:
        """Describe nothing in advance: the metrics depend on Redis."""
        return iter(())


def _queue(seen: Observation) -> Iterator[Metric]:
    yield _gauge("render_queue_messages", "Messages waiting in the queue.", seen.waiting)
    yield _gauge("render_queue_unacknowledged", "Messages that workers have.", seen.unacknowledged)
    yield _gauge("render_queue_delayed", "Jobs waiting for their time.", seen.delayed)
    if seen.oldest_seconds is not None:
        yield _gauge("render_queue_oldest_seconds", "Seconds since the oldest message was queued.", seen.oldest_seconds)
    workers = GaugeMetricFamily("render_workers", "Live workers, by state.", labels=["state"])
    paused = sum(beat.facts.paused is not None for beat in seen.workers.values())
    workers.add_metric(["ready"], len(seen.workers) - paused)
    workers.add_metric(["paused"], paused)
    yield workers
    exits = CounterMetricFamily(
        "render_worker_exits", "Workers that ended by themselves, by reason.", labels=["reason"]
    )
    for reason, number in seen.exits.items():
        exits.add_metric([reason], number)
    yield exits


def _batches(seen: Observation) -> Iterator[Metric]:
    opened = seen.open_batches
    yield _gauge("render_open_batches", "Batches with a job that has not ended.", len(opened))
    jobs = GaugeMetricFamily("render_open_jobs", "Jobs of open batches, by state.", labels=["state"])
    for state in STATES:
        jobs.add_metric([state], sum(getattr(batch.counts, state) for batch in opened))
    yield jobs


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)
