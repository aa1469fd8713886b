"""What the page shows of everything: queue, workers, open and recent batches. JSON, made once a look."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jobs.ledger.records import Heartbeat, HeldSet
from jobs.redaction import without_secrets
from producer.console import place, printable
from producer.engine_sets import engine_set_name
from producer.keep.board import Board
from producer.keep.observation import BatchCounts, Observation
from producer.keep.paces import Paces

SHOWN_OPEN = 50
SHOWN_RECENT = 20  # batches that have ended
SHOWN_WORKERS = 200
SHOWN_JOBS = 16  # ids of what a worker holds


def overview(board: Board, paces: Paces) -> dict[str, object]:
    """The newest look; while Redis is away, the last one before that."""
    seen, redis = board.observation, board.redis
    record: dict[str, object] = {
        "redis": {"up": redis.is_up, "why": redis.why},
        "reconciler": {"requeued": board.totals.requeued},
        "looked": seen is not None,
    }
    return record if seen is None else record | _seen(seen, paces)


def _seen(seen: Observation, paces: Paces) -> dict[str, object]:
    opened = sorted(seen.open_batches, key=lambda batch: not batch.counts.running)  # stable: newest first in each half
    ended = [batch for batch in seen.batches if not batch.is_open]
    shown = opened[:SHOWN_OPEN] + ended[:SHOWN_RECENT]
    rates = [paces.of(batch.info.name).pictures_a_second for batch in opened]
    workers = sorted(seen.workers.values(), key=lambda beat: (beat.facts.paused is None, beat.worker))
    return {
        "at": seen.at,
        "queue": {
            "waiting": seen.waiting,
            "unacknowledged": seen.unacknowledged,
            "delayed": seen.delayed,
            "oldest_seconds": seen.oldest_seconds,
        },
        "pictures_a_second": sum(filter(None, rates)) or None,
        "workers": [_worker(beat, seen) for beat in workers[:SHOWN_WORKERS]],
        "workers_total": len(workers),
        "workers_paused": sum(beat.facts.paused is not None for beat in workers),
        "batches": [_batch(batch, paces) for batch in shown],
        "batches_open": len(opened),
        "batches_total": len(seen.batches),
        "damaged": list(seen.damaged),
    }


def of_batch(batch: BatchCounts) -> dict[str, object]:
    """What the list of batches and the details of one both say."""
    return {
        "name": batch.info.name,
        "source": place(batch.info.source),
        "folder": place(batch.info.folder),
        "created_at": batch.info.created_at,
        "counts": batch.counts.model_dump(),
        "total": batch.counts.total,
        "open": batch.is_open,
    }


def _batch(batch: BatchCounts, paces: Paces) -> dict[str, object]:
    pace = paces.of(batch.info.name)
    return {**of_batch(batch), "pictures_a_second": pace.pictures_a_second, "seconds_left": pace.seconds_left}


def _worker(beat: Heartbeat, seen: Observation) -> dict[str, object]:
    facts = beat.facts
    return {
        "name": beat.worker,
        "host": facts.host,
        "queue": facts.queue,
        "paused": None if facts.paused is None else without_secrets(facts.paused),
        "last_error": None if facts.last_error is None else without_secrets(facts.last_error),
        "engine_set": ", ".join(map(_set, facts.held)) or None,
        "started_at": facts.started_at,
        "heartbeat_at": beat.at,
        "holds": len(beat.in_flight),
        "in_flight": _in_flight(beat.in_flight, seen),
        "jobs": list(beat.in_flight[:SHOWN_JOBS]),
    }


def _set(held: HeldSet) -> str:
    """`anime: 235d4e6a7af6 (dreamshaper_8)`."""
    shown = engine_set_name(held.engine_set, held.model)
    return f"{printable(held.name)}: {shown}" if held.name else shown


def _in_flight(ids: Sequence[str], seen: Observation) -> list[dict[str, object]]:
    """How many of the jobs are of each batch, as far as that is known."""
    jobs = Counter(seen.in_flight[id_] for id_ in ids if id_ in seen.in_flight)
    return [{"batch": batch, "jobs": number} for batch, number in jobs.most_common()]
