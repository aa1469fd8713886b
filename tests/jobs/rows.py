"""Jobs and results for tests."""

from __future__ import annotations

from typing import Any

from jobs.job import RenderJob, RenderParameters, RenderResult
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Enqueued


def make_job(row: int = 1, *, batch: str = "b", output: str = "file:///out", **parameters: Any) -> RenderJob:
    """A valid job; parameters override."""
    values = {"image": "file:///a.png", "prompt": f"house {row}"} | parameters
    return RenderJob.create(RenderParameters.model_validate(values), batch=batch, row=row, output=output)


def make_jobs(number: int, *, batch: str = "b") -> list[RenderJob]:
    """Rows 1..number of a batch."""
    return [make_job(row, batch=batch) for row in range(1, number + 1)]


def enqueue(ledger: Ledger, jobs: list[RenderJob]) -> Enqueued:
    """Open the batch and queue its jobs as the producer does."""
    ledger.open_batch(jobs[0].batch, output=jobs[0].output, source="jobs.csv")
    return ledger.enqueue(jobs)


def make_result(job: RenderJob, state: Any = "done") -> RenderResult:
    """A terminal record of a job."""
    return RenderResult(
        id=job.id, batch=job.batch, row=job.row, state=state, image="file:///a.png", prompt="p", seed=job.seed
    )
