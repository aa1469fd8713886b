"""Making a ledger again that was lost: the manifest says what was submitted, the sidecars what of it is done.

A job without a sidecar is queued, unless a live worker says that it holds it. What is not in storage is lost with the
ledger: failures and cancellations (such jobs are queued once more) and attempts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

from jobs.errors import InvalidJob
from jobs.job import RenderJob
from jobs.ledger.enqueue import CHUNK_JOBS, enqueue
from jobs.ledger.ledger import BatchInfo, Ledger
from jobs.ledger.sidecars import Sidecars
from jobs.storage.store import Store
from jobs.submission import Part, jobs_of, part_uris, read_head


@dataclass
class Rebuilt:
    """What became of the jobs of a manifest.

    `withheld` had a secret in their URL, are not done, and so need their CSV; `damaged` are sentences about parts that
    could not be read.
    """

    jobs: int = 0
    recovered: int = 0
    queued: int = 0
    held: int = 0
    withheld: int = 0
    damaged: list[str] = field(default_factory=list)


def rebuild(
    ledger: Ledger,
    batch: str,
    *,
    output: str,
    writer: Store,
    settle_seconds: float,
    sleep: Callable[[float], object] = time.sleep,
) -> Rebuilt | None:
    """Tell the ledger what storage knows of a batch; None where storage knows nothing.

    What the ledger knows stays as it is, so this is safe at any time. `settle_seconds` is how long live workers may
    take to say what they hold: a heartbeat. Memory stays flat.

    Raises:
        RenderError: storage or Redis does not answer; the same call goes on from there.
    """
    rebuilt = Rebuilt()
    parts = _parts(writer, output, batch, rebuilt)
    if not parts:
        return rebuilt if rebuilt.damaged else None
    ledger.begin_rebuilding(batch)
    info = ledger.open_batch(batch, output=output, source=parts[0].head.source)
    sleep(settle_seconds)
    with Sidecars(writer) as sidecars:
        rebuilding = _Rebuilding(ledger, info, sidecars, rebuilt)
        for part in parts:
            try:
                for chunk in _chunks(jobs_of(writer, part, output=output)):
                    rebuilding.enter(chunk, source=part.head.source)
            except InvalidJob as error:
                rebuilt.damaged.append(str(error))
    if not rebuilt.damaged and not rebuilt.withheld:
        ledger.end_rebuilding(batch)
    return rebuilt


def _parts(writer: Store, output: str, batch: str, rebuilt: Rebuilt) -> list[Part]:
    """Oldest first: a later part may correct rows of an earlier one."""
    parts = []
    for uri in part_uris(writer, output, batch):
        try:
            parts.append(read_head(writer, uri))
        except InvalidJob as error:
            rebuilt.damaged.append(str(error))
    return sorted((part for part in parts if part.head.batch == batch), key=lambda part: part.head.submitted_at)


@dataclass(frozen=True)
class _Rebuilding:
    ledger: Ledger
    info: BatchInfo
    sidecars: Sidecars
    rebuilt: Rebuilt

    def enter(self, chunk: Sequence[tuple[RenderJob, bool]], *, source: str) -> None:
        """Enter some jobs of one part, each with whether the manifest withholds a secret of it."""
        entered = enqueue(
            self.ledger,
            [job for job, _ in chunk],
            row_prefix=self.info.row_prefix(source),
            sidecars=self.sidecars,
            withheld={job.id for job, secret in chunk if secret},
        )
        to = self.rebuilt
        to.jobs += len(chunk)
        to.recovered += entered.enqueued.recovered
        to.queued += entered.enqueued.added
        to.held += entered.held
        to.withheld += entered.withheld


def _chunks(jobs: Iterator[tuple[RenderJob, bool]]) -> Iterator[list[tuple[RenderJob, bool]]]:
    while chunk := list(islice(jobs, CHUNK_JOBS)):
        yield chunk
