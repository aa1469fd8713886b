"""Entering jobs into the ledger: unknown -> held by a live worker -> finished before -> queued.

Submissions and rebuilds both use this one function.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Enqueued
from jobs.ledger.sidecars import Sidecars

CHUNK_JOBS = 250  # one script call per chunk: Redis serves nobody else for the few milliseconds that it takes


@dataclass(frozen=True)
class Entered:
    """What `enqueue` did with some jobs.

    `held` jobs are with a live worker; `withheld` jobs have a secret in their URL that storage does not keep,
    and are not done, so only their CSV can bring them back.
    """

    enqueued: Enqueued
    held: int = 0
    withheld: int = 0


def enqueue(
    ledger: Ledger,
    jobs: Sequence[RenderJob],
    *,
    row_prefix: str = "",
    sidecars: Sidecars | None = None,
    withheld: Collection[str] = (),
) -> Entered:
    """Enter jobs of one batch, at most CHUNK_JOBS at a time.

    With `sidecars`, storage may know more than the ledger. A job that the ledger does not know is then recorded as done
    where its sidecar exists and as running where a live worker holds it; otherwise it is queued. `withheld` are the ids
    of jobs that cannot be queued, because a secret of theirs is missing.

    Raises:
        LedgerUnavailable: Redis does not answer; the same call may be repeated.
        RenderError: storage does not answer.
    """
    if sidecars is None:
        return Entered(ledger.enqueue(jobs, row_prefix=row_prefix))
    unknown = ledger.unknown(jobs[0].batch, [job.id for job in jobs])
    held = ledger.held_jobs()
    finished = sidecars.of([job for job in jobs if job.id in unknown])
    whole = [job for job in jobs if job.id not in withheld or job.id in finished]
    missing = unknown - finished.keys()
    return Entered(
        ledger.enqueue(whole, row_prefix=row_prefix, finished=finished, held=held),
        held=sum(job.id in held and job.id in missing for job in whole),
        withheld=sum(id_ in missing and id_ not in held for id_ in withheld),
    )
