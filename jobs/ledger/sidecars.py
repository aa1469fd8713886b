"""Sidecars: the results that storage holds, looked up by job. A sidecar is written last, so it proves the job done."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jobs.errors import SourceNotFound
from jobs.job import RenderJob, RenderResult
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store

LOOKUPS_AT_ONCE = 32  # one look-up takes about 10 ms, nearly all of it waiting
TRIES = 4


class Sidecars:
    """Looks up in storage which jobs are done. Use it as a context manager."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pool = ThreadPoolExecutor(LOOKUPS_AT_ONCE, "sidecars")

    def of(self, jobs: Sequence[RenderJob]) -> dict[str, RenderResult]:
        """The results of those jobs that have a sidecar, by job id.

        Raises:
            RenderError: storage does not answer.
        """
        results = self._pool.map(self._result, jobs)
        return {result.id: result for result in results if result is not None}

    def _result(self, job: RenderJob) -> RenderResult | None:
        try:
            data = with_backoff(lambda: self._store.read(job.sidecar_uri), attempts=TRIES, base_seconds=0.5)
            result = RenderResult.model_validate_json(data)
        except (SourceNotFound, ValueError):
            return None  # no sidecar, or not a valid one: whoever renders the job writes it again
        return result if (result.id, result.state) == (job.id, "done") else None

    def __enter__(self) -> Sidecars:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
