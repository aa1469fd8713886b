"""Entering jobs into the ledger: unknown -> in flight on a live worker -> finished before -> queued.

Submissions and rebuilds both call this one function. Jobs that the ledger knows already are queued again by
Ledger.requeue, which retry and the reconciler call.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Enqueued
from jobs.ledger.sidecars import Sidecars


@dataclass(frozen=True)
class Entered:
    """What `enqueue` did.

    `in_flight` counts jobs that a live worker has. `withheld` counts jobs that are not done and cannot be queued,
    because storage does not keep the secret in their URL: only their CSV can bring them back.
    """

    enqueued: Enqueued
    in_flight: int = 0
    withheld: int = 0


def enqueue(
    ledger: Ledger,
    jobs: Sequence[RenderJob],
    *,
    row_prefix: str = "",
    sidecars: Sidecars | None = None,
    withheld: Collection[str] = (),
    replaces: Mapping[str, str] | None = None,
) -> Entered:
    """Enter jobs of one batch, at most chunks.CHUNK_JOBS at a time.

    Pass `sidecars` where storage may know more than the ledger: a job that the ledger does not know is then recorded as
    done where its sidecar exists, and as running where a live worker holds it. All other unknown jobs are queued, also
    those whose sidecar storage refuses to show: `sidecars.unknown` counts them.
    `withheld` are the ids of jobs that cannot be queued, because the secret in their URL is missing.
    `replaces` is for rebuilds, as Ledger.enqueue says.

    Raises:
        LedgerUnavailable: Redis does not answer; the same call may be repeated.
        BatchDeleted: as Ledger.enqueue.
        RenderError: storage does not answer.
    """
    if sidecars is None or not jobs:
        return Entered(ledger.enqueue(jobs, row_prefix=row_prefix))
    unknown = ledger.unknown(jobs[0].batch, [job.id for job in jobs])
    in_flight = ledger.jobs_in_flight()
    finished = sidecars.of([job for job in jobs if job.id in unknown])
    complete = [job for job in jobs if job.id not in withheld or job.id in finished or job.id not in unknown]
    missing = unknown - finished.keys()
    return Entered(
        ledger.enqueue(complete, row_prefix=row_prefix, finished=finished, in_flight=in_flight, replaces=replaces),
        in_flight=sum(job.id in in_flight and job.id in missing for job in complete),
        withheld=sum(id_ in missing and id_ not in in_flight for id_ in withheld),
    )
