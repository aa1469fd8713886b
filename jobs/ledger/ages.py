"""How old batches are: the time since the last of their jobs ended."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from jobs.errors import LedgerUnavailable
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo, Counts

WRONG_TYPE = "WRONGTYPE"  # somebody put another thing into the place of a hash; one such batch must not stop the others


class EndedBatch(NamedTuple):
    """A batch all of whose jobs have ended, and when the last of them did (seconds since the epoch)."""

    info: BatchInfo
    counts: Counts
    ended_at: float


def ended_before(ledger: Ledger, infos: Iterable[BatchInfo], time: float) -> Iterator[EndedBatch]:
    """Those batches all of whose jobs ended before a time, in seconds since the epoch by Redis' clock.

    A batch without jobs ended when it was registered. A batch that was registered later costs no look; of one that has
    ended the results are read, until one is found that is younger. A batch whose keys are damaged is left out.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """
    for info in infos:
        if info.created_at >= time:
            continue
        try:
            counts = ledger.counts(info.name)
            ended_at = None if counts.queued + counts.running else _last_end(ledger, info, time)
        except (LedgerUnavailable, ValueError) as error:
            if isinstance(error, LedgerUnavailable) and WRONG_TYPE not in str(error.__cause__):
                raise
            continue
        if ended_at is not None:
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
