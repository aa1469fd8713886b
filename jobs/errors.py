"""Every error that a job, a command or a worker can end in, and where its fault lies.

    RenderError
    ├── TransientError                        try again: the same job may succeed later
    │   ├── SourceUnavailable      host       timeout, 5xx, throttling while reading an input ("store" for s3:// and file://)
    │   ├── OutputUnavailable      store      the same while writing a result
    │   └── LedgerUnavailable      store      Redis does not answer
    ├── PermanentError                        do not try again here: this worker would end the job in the same way
    │   ├── InvalidJob             job        a parameter or a message that breaks the contract
    │   │   └── InvalidCsv         job        the same, found while reading a CSV
    │   ├── SourceNotFound         job        404, no such object; "worker" for a file or a host that it cannot find
    │   ├── SourceForbidden        job        401 or 403; "worker" for an allow-list or keys of the worker
    │   ├── SourceTooLarge         worker     more bytes or pixels than its settings allow
    │   ├── NotAnImage             job        not decodable, truncated or an unsupported format
    │   ├── OutputForbidden        worker     missing bucket, no permission, or a folder that this worker may not write
    │   ├── OutputFull             worker     no space left on its disk ("store" for a bucket over its quota)
    │   ├── EngineSetNotHeld       worker     it holds no engine set of the name or digest that the job asks for
    │   ├── ShapeNotBuilt          worker     its engine set holds no engine for this picture's size
    │   ├── PromptTooLong          worker     its engine set holds no engine for this many chunks of a prompt
    │   ├── StepsNotTrained        worker     its engine set's model has fewer timesteps than the job's steps
    │   ├── OutOfMemory            worker     one sample alone does not fit in its device's memory
    │   ├── RenderFailed           worker     its engines raised, or gave NaN
    │   └── Quarantined            job        the job took its worker down too many times
    ├── Cancelled                  job        the user asked for it
    ├── BatchDeleted               job        its batch was deleted, or is being deleted: no job may be added to it
    ├── Requeued                   worker     the worker is stopping; another one renders the job
    ├── NewerMessage               worker     a message of a newer version, which this worker cannot read
    └── SettingsError              worker     a variable or an argument that stops start-up

`fault` says where to look, and whether another worker may do better:

    job      the row itself: every worker would end it in the same way
    worker   this process, its machine or its settings: another worker may render the job
    store    Redis, or the folder or bucket where results go: all workers share it
    host     another machine, which an input is read from

The drawing gives each class's usual fault; an instance may say otherwise. What a worker does follows from the fault:

    job      the job fails at once
    worker   the job goes back to the queue at no attempt and after a delay; it fails once every live worker refused it
    store    the worker waits and tries again without limit; no attempt is spent
    host     the job is tried again in place, then later, until RENDER_MAX_ATTEMPTS

`kind` is the stable word that the ledger, the sidecars and the metrics use.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar, Literal

Fault = Literal["job", "worker", "store", "host"]
# Which workers a worker's fault is true of: all that have the same settings, or this process alone.
Scope = Literal["settings", "machine"]


class RenderError(Exception):
    """The root. `str(error)` is a sentence that a user can act on.

    `fault` is where the fault lies; without the argument, it is the class's. `scope` and `unfit` mean something only
    where the fault is the worker's: `scope` says which other workers would refuse the same job, and `unfit` that no
    job of this process can succeed (its keys expired, its disk is full, its clock is wrong).
    """

    kind: ClassVar[str] = "error"
    fault: Fault = "worker"
    scope: Scope = "machine"
    unfit: bool = False

    def __init__(
        self, message: str = "", *, fault: Fault | None = None, scope: Scope | None = None, unfit: bool = False
    ) -> None:
        # A file's name may not be valid text, which JSON, where errors end, could not hold.
        super().__init__(message.encode("utf-8", "replace").decode())
        if fault is not None:
            self.fault = fault
        if scope is not None:
            self.scope = scope
        self.unfit = unfit


class TransientError(RenderError):
    """The same job may succeed later; not before `retry_after_seconds`, where the other side said so.

    `blameless` is True where the other side serves other jobs first, and this one's turn has not come: its attempt
    does not count then.
    """

    kind = "transient"
    retry_after_seconds: float | None = None
    blameless: bool = False


class SourceUnavailable(TransientError):
    """Reading an input timed out, was throttled or met a server error."""

    kind = "source_unavailable"
    fault = "host"


class OutputUnavailable(TransientError):
    """Writing a result timed out, was throttled or met a server error."""

    kind = "output_unavailable"
    fault = "store"


class LedgerUnavailable(TransientError):
    """Redis does not answer."""

    kind = "ledger_unavailable"
    fault = "store"


class PermanentError(RenderError):
    """The same job would fail again in this worker."""

    kind = "permanent"


class InvalidJob(PermanentError):
    """A parameter or a message that breaks the contract."""

    kind = "invalid_job"
    fault = "job"


class InvalidCsv(InvalidJob):
    """A CSV that cannot be read as jobs."""

    kind = "invalid_csv"
    fault = "job"


class SourceNotFound(PermanentError):
    """The input does not exist."""

    kind = "source_not_found"
    fault = "job"


class SourceForbidden(PermanentError):
    """The input may not be read: access denied, or an address, folder or bucket that workers may not read."""

    kind = "source_forbidden"
    fault = "job"


class SourceTooLarge(PermanentError):
    """The input has more bytes or pixels than allowed."""

    kind = "source_too_large"
    fault = "worker"
    scope = "settings"


class NotAnImage(PermanentError):
    """The input cannot be decoded as a picture."""

    kind = "not_an_image"
    fault = "job"


class OutputForbidden(PermanentError):
    """The result may not be written: missing bucket, no permission, unsupported scheme."""

    kind = "output_forbidden"
    fault = "worker"


class OutputFull(PermanentError):
    """No space is left where results go, for `needed_bytes` of them where that is known."""

    kind = "output_full"
    fault = "worker"
    needed_bytes: int = 0


class EngineSetNotHeld(PermanentError):
    """The job asks for an engine set by its name or digest, and this worker holds others."""

    kind = "engine_set_not_held"
    fault = "worker"
    scope = "settings"


class ShapeNotBuilt(PermanentError):
    """The engine set holds no engine for this picture's size."""

    kind = "shape_not_built"
    fault = "worker"
    scope = "settings"


class PromptTooLong(PermanentError):
    """The job's prompts have more chunks than the engine set was built for."""

    kind = "prompt_too_long"
    fault = "worker"
    scope = "settings"


class StepsNotTrained(PermanentError):
    """The engine set's model has too few training timesteps for the job's steps."""

    kind = "steps_not_trained"
    fault = "worker"
    scope = "settings"


class OutOfMemory(PermanentError):
    """One sample alone does not fit in the device's memory."""

    kind = "out_of_memory"
    fault = "worker"


class RenderFailed(PermanentError):
    """The engines raised, or produced values that are not numbers."""

    kind = "render_failed"
    fault = "worker"


class Quarantined(PermanentError):
    """The job took its worker down too many times."""

    kind = "quarantined"
    fault = "job"


@contextmanager
def naming(column: str) -> Iterator[None]:
    """Let the sentences of errors that pass through begin with the column that they are about."""
    try:
        yield
    except (TransientError, PermanentError) as error:
        if not str(error).startswith(f"{column}: "):
            error.args = (f"{column}: {error}",)
        raise


class Cancelled(RenderError):
    """The user cancelled the job."""

    kind = "cancelled"
    fault = "job"


class BatchDeleted(RenderError):
    """The batch was deleted while jobs were added to it, or its deletion has begun and not ended."""

    kind = "batch_deleted"
    fault = "job"


class Requeued(RenderError):
    """The worker is stopping before the job was rendered; another one will render it.

    `blameless` is False where the job itself may be why: its attempt counts then.
    """

    kind = "requeued"
    fault = "worker"

    def __init__(self, message: str, *, blameless: bool = True) -> None:
        super().__init__(message)
        self.blameless = blameless


class NewerMessage(RenderError):
    """A message of a newer version of this program. Put it back: a newer worker can read it."""

    kind = "newer_message"
    fault = "worker"


class SettingsError(RenderError):
    """A variable or an argument that stops start-up; the message names it."""

    kind = "settings"
    fault = "worker"
