"""RenderResult, the last of a job's four records, as the ledger and the sidecar hold it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jobs.errors import Cancelled, RenderError
from jobs.job import RenderJob, RenderResult
from jobs.ledger.records import Start
from jobs.redaction import redacted, without_secrets

if TYPE_CHECKING:
    from worker.prepare import Prepared


@dataclass(frozen=True)
class ResultWriter:
    """Writes results in the name of one worker and the engine set that draws the job."""

    worker: str
    engine_set: str | None  # digest; None where it is not known which set the job is for
    model_name: str | None = None  # the model in it, for people
    built_with: Mapping[str, Any] | None = None  # what was added to that model

    def done(
        self, job: RenderJob, start: Start, prepared: Prepared, *, samples: int, seconds: dict[str, float]
    ) -> RenderResult:
        """Every sample was rendered and uploaded."""
        return self._result(
            job,
            start,
            state="done",
            samples=tuple(job.sample_uri(sample) for sample in range(samples)),
            canny=job.canny_uri,
            width=prepared.width,
            height=prepared.height,
            warnings=prepared.warnings,
            seconds=seconds,
            built_with=self.built_with,
        )

    def ended(self, job: RenderJob, start: Start, error: Exception) -> RenderResult:
        """The job was cancelled, or failed for good."""
        if isinstance(error, Cancelled):
            return self._result(job, start, state="cancelled", error_kind=error.kind, error=str(error))
        return self.failed(job, start, *described(error))

    def failed(self, job: RenderJob, start: Start, kind: str, text: str) -> RenderResult:
        """The job failed for good, for this reason."""
        return self._result(job, start, state="failed", error_kind=kind, error=text)

    def _result(self, job: RenderJob, start: Start, **fields: Any) -> RenderResult:
        return RenderResult(
            id=job.id,
            batch=job.batch,
            row=job.row,
            image=redacted(job.parameters.image),
            prompt=job.parameters.prompt,
            seed=job.seed,
            attempts=start.attempts,
            worker=self.worker,
            engine_set=self.engine_set,
            model=job.parameters.model,
            model_name=self.model_name,
            finished_at=time.time(),
            **fields,
        )


def described(error: Exception) -> tuple[str, str]:
    """An error's kind, and its sentence without secrets."""
    if isinstance(error, RenderError):
        return error.kind, without_secrets(str(error))
    text = f"unexpected {type(error).__name__}: {error}".encode("utf-8", "replace").decode()  # as RenderError does
    return "unexpected", without_secrets(text)


def sidecar(job: RenderJob, result: RenderResult) -> bytes:
    """The result as JSON, with the parameters, so that the sidecar alone is enough to render the job again."""
    parameters = job.parameters.without_secrets()  # a signed URL would let everyone read the input
    return result.model_copy(update={"parameters": parameters}).model_dump_json(indent=2, exclude_none=True).encode()
