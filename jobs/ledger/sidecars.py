"""Sidecars: the results that storage holds, looked up by job. A sidecar is written last, so it proves the job done."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jobs.errors import SourceNotFound
from jobs.job import RenderJob, RenderResult
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store

LOOKUPS_AT_ONCE = 32  # one lookup takes about 10 ms, nearly all of it waiting
TRIES = 4


class Sidecars:
    """Looks in storage for what jobs have become. Use as a context manager."""

    def __init__(self, writer: Store) -> None:
        self._writer = writer
        self._pool = ThreadPoolExecutor(LOOKUPS_AT_ONCE, "sidecars")

    def of(self, jobs: Sequence[RenderJob]) -> dict[str, RenderResult]:
        """The results of those jobs whose sidecars are there, by id.

        Raises:
            RenderError: storage does not answer.
        """
        found = self._pool.map(self._look, jobs)
        return {result.id: result for result in found if result is not None}

    def _look(self, job: RenderJob) -> RenderResult | None:
        try:
            data = with_backoff(lambda: self._writer.read(job.sidecar_uri), attempts=TRIES, base_seconds=0.5)
            result = RenderResult.model_validate_json(data)
        except (SourceNotFound, ValueError):
            return None  # none, or one that is no sidecar: whoever renders the job writes it again
        return result if (result.id, result.state) == (job.id, "done") else None

    def __enter__(self) -> Sidecars:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
