"""Pictures: what a job asks for, fetched, prepared, drawn by the loop and encoded, in memory until the upload."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from jobs.errors import naming
from jobs.job import RenderJob
from worker.observe.metrics import StageTimer
from worker.renderer import Renderer
from worker.sources import Sources

if TYPE_CHECKING:
    from worker.prepare import Prepared

Check = Callable[[], None]  # raises Cancelled or Requeued if the job should not go on


@dataclass(frozen=True)
class Pictures:
    """Called by the threads of jobs. What is not returned (the source, the raw samples) is freed."""

    renderer: Renderer
    sources: Sources

    def draw(self, job: RenderJob, timer: StageTimer, *, check: Check) -> tuple[Prepared, list[bytes]]:
        """What was prepared, and one file a sample. Raises whatever prevents it."""
        loop = self.renderer.loop
        with loop.expecting():
            prepared = self._prepare(job, timer, check)
            check()
            futures = [loop.submit(spec) for spec in prepared.specs]
        with timer.measure("render"):
            samples = self._wait_for_samples(job, futures)
        with timer.measure("encode"):
            encode = self.renderer.for_job(job).encode
            return prepared, [encode(job, prepared, k, sample) for k, sample in enumerate(samples)]

    def _prepare(self, job: RenderJob, timer: StageTimer, check: Check) -> Prepared:
        with timer.measure("fetch"):
            picture = self.sources.fetch(job, check, uri=job.parameters.image)
            control = self._fetch_control_image(job, check)
        timer.metrics.image_bytes.labels(direction="in").inc(len(picture) + sum(map(len, control.values())))
        with timer.measure("prepare"):
            check()
            return self.renderer.for_job(job).prepare(job, picture, **control)

    def _fetch_control_image(self, job: RenderJob, check: Check) -> dict[str, bytes]:
        """The argument of `prepare` that only jobs with a hint of its own have."""
        uri = job.parameters.control_image
        if uri is None:
            return {}
        with naming("control_image"):
            return {"control_data": self.sources.fetch(job, check, uri=uri)}

    def _wait_for_samples(self, job: RenderJob, futures: Sequence[Future[np.ndarray]]) -> list[np.ndarray]:
        """uint8 pictures [H, W, 3], one per sample. An error in one ends all: a job is done whole or not at all."""
        done, unfinished = wait(futures, return_when=FIRST_EXCEPTION)
        if unfinished:
            self.renderer.loop.cancel(job.id)
        for future in done:
            future.result()  # raises the first error, rather than the Cancelled that it caused in the others
        return [future.result() for future in futures]
