"""How old batches are: the time since the last of their jobs ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo, Counts
from jobs.ledger.redis_client import passing_over_damage


class EndedBatch(NamedTuple):
    """A batch whose jobs have all ended, and when the last of them did (seconds since the epoch)."""

    info: BatchInfo
    counts: Counts
    ended_at: float


def ended_before(ledger: Ledger, infos: Iterable[BatchInfo], time: float) -> Iterator[EndedBatch]:
    """Those batches whose jobs all ended before a time, in seconds since the epoch by Redis' clock.

    A batch without jobs ended when it was registered. A batch that was registered after that time is not looked at. The
    results of one that has ended are read until a younger one is found. A batch whose keys are damaged is left out.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """
    for info in infos:
        if info.created_at >= time:
            continue
        ended = None
        with passing_over_damage():
            ended = _ended(ledger, info, time)
        if ended is not None:
            yield ended


def is_still_old(ledger: Ledger, info: BatchInfo, time: float) -> bool:
    """Whether a batch that `ended_before` gave is still the same one, and no job of it has been queued or ended since.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """
    return ledger.batch(info.name) == info and any(ended_before(ledger, [info], time))


def _ended(ledger: Ledger, info: BatchInfo, time: float) -> EndedBatch | None:
    """The batch, or None where a job of it has not ended, or has not ended before `time`."""
    counts = ledger.counts(info.name)
    ended_at = None if counts.unfinished else _last_end(ledger, info, time)
    return None if ended_at is None else EndedBatch(info, counts, ended_at)


def _last_end(ledger: Ledger, info: BatchInfo, time: float) -> float | None:
    """When the last job ended, or None where that was not before `time`."""
    last = info.created_at
    for text in ledger.result_texts(info.name):
        last = max(last, _finished_at(text))
        if last >= time:
            return None
    return last


def _finished_at(text: str) -> float:
    """When a job ended, by its result as JSON; 0 if the result does not say. Another program may have written it."""
    try:
        value = json.loads(text).get("finished_at")
        return float(value) if isinstance(value, (int, float)) else 0.0
    except (ValueError, AttributeError, OverflowError, RecursionError):
        return 0.0
