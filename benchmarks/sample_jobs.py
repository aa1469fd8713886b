"""Jobs and results that are as long as real ones, for benchmarks of Redis."""

from __future__ import annotations

import time

from jobs.job import RenderJob, RenderParameters, RenderResult
from jobs.ledger.chunks import chunks
from jobs.ledger.ledger import Ledger

OUTPUT = "s3://bucket/renders"


def job_of(batch: str, row: int) -> RenderJob:
    """A job whose prompt and path are of a usual length."""
    prompt = f"a painting of thing number {row}, oil on canvas, soft light"
    parameters = RenderParameters(image=f"s3://bucket/photos/{row:07d}.png", prompt=prompt)
    return RenderJob.create(parameters, batch=batch, row=row, output=OUTPUT)


def enqueue(ledger: Ledger, batch: str, jobs: int) -> list[str]:
    """Open a batch and enqueue its jobs; returns their ids."""
    ledger.open_batch(batch, output=OUTPUT, source=f"file:///{batch}.csv")
    ids: list[str] = []
    for chunk in chunks(job_of(batch, row) for row in range(1, jobs + 1)):
        ledger.enqueue(chunk)
        ids += [job.id for job in chunk]
    return ids


def result_of(job: RenderJob, worker: str) -> RenderResult:
    """A record as long as real ones."""
    stages = ("fetch", "prepare", "render", "encode", "upload")
    return RenderResult(
        id=job.id,
        batch=job.batch,
        row=job.row,
        state="done",
        image=job.parameters.image,
        prompt=job.parameters.prompt,
        seed=job.seed,
        samples=(job.sample_uri(0),),
        canny=job.canny_uri,
        width=512,
        height=512,
        attempts=1,
        worker=f"a-host-of-some-length-{worker}",
        engine_set="0123456789abcdef" * 4,
        finished_at=time.time(),
        seconds=dict.fromkeys(stages, 0.1234),
    )
