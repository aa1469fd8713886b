"""How old batches are: the time since the last of their jobs ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo, Counts


class EndedBatch(NamedTuple):
    """A batch all of whose jobs have ended, and when the last of them did (seconds since the epoch)."""

    info: BatchInfo
    counts: Counts
    ended_at: float


def ended_before(ledger: Ledger, infos: Iterable[BatchInfo], time: float) -> Iterator[EndedBatch]:
    """Those batches all of whose jobs ended before a time, in seconds since the epoch by Redis' clock.

    A batch without jobs ended when it was registered. A batch that is younger than that costs one look; of an older one
    the results are read, until one is found that is younger.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """
    older = [info for info in infos if info.created_at < time]
    for info, overview in zip(older, ledger.overviews(info.name for info in older), strict=True):
        counts = overview.counts
        if counts.queued + counts.running == 0 and (ended_at := _last_end(ledger, info, time)) is not None:
            yield EndedBatch(info, counts, ended_at)


def _last_end(ledger: Ledger, info: BatchInfo, time: float) -> float | None:
    """When the last job ended, or None where that was not before `time`."""
    last = info.created_at
    for text in ledger.result_texts(info.name):
        last = max(last, _finished_at(text))
        if last >= time:
            return None
    return last


def _finished_at(text: str) -> float:
    """Of a result as JSON; 0 where it does not say so: early versions did not, and anybody may write to Redis."""
    try:
        value = json.loads(text).get("finished_at")
    except (ValueError, AttributeError):
        return 0.0
    return float(value) if isinstance(value, (int, float)) else 0.0
