"""Sidecars: the results that storage holds, looked up by job. A sidecar is written last, so it proves the job done."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from jobs.errors import SourceForbidden, SourceNotFound
from jobs.job import RenderJob, RenderResult
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store

LOOKUPS_AT_ONCE = 32  # one look-up takes about 10 ms, nearly all of it waiting
TRIES = 4
# Storage that has refused so many looks, and answered none, is asked no more: a batch of a million jobs need not wait
# for a million refusals.
REFUSALS = 1000


class Sidecars:
    """Looks up in storage which jobs are done. Use it as a context manager.

    A look that is refused says nothing of the job: S3 answers 403 of an object that does not exist where the keys may
    read but not list. `unknown` counts these jobs, and `refusal` is the first refusal's sentence.
    """

    def __init__(self, store: Store) -> None:
        self.unknown = 0
        self.refusal: str | None = None
        self._store = store
        self._answered = False
        self._pool = ThreadPoolExecutor(LOOKUPS_AT_ONCE, "sidecars")

    def of(self, jobs: Sequence[RenderJob]) -> dict[str, RenderResult]:
        """The results of those jobs that have a sidecar, by job id.

        Raises:
            RenderError: storage does not answer.
        """
        if self.unknown >= REFUSALS and not self._answered:
            self.unknown += len(jobs)
            return {}
        results: dict[str, RenderResult] = {}
        for found in self._pool.map(self._result, jobs):
            if isinstance(found, SourceForbidden):
                self.unknown += 1
                self.refusal = self.refusal or str(found)
                continue
            self._answered = True
            if found is not None:
                results[found.id] = found
        return results

    def _result(self, job: RenderJob) -> RenderResult | SourceForbidden | None:
        try:
            data = with_backoff(lambda: self._store.read(job.sidecar_uri), attempts=TRIES, base_seconds=0.5)
            result = RenderResult.model_validate_json(data)
        except (SourceNotFound, ValueError):
            return None  # no sidecar, or not a valid one: rendering the job writes it again
        except SourceForbidden as refusal:
            return refusal
        if (result.id, result.state) != (job.id, "done"):
            return None
        return result.model_copy(update={"model": job.parameters.model})  # sidecars of before say it in parameters only

    def __enter__(self) -> Sidecars:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
