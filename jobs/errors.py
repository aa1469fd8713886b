"""Every error that a job, a command or a worker can end in.

    RenderError
    ├── TransientError                   retry: the same job may succeed later
    │   ├── SourceUnavailable            timeout, 5xx, throttling while reading an input
    │   ├── OutputUnavailable            the same while writing a result
    │   └── LedgerUnavailable            Redis does not answer
    ├── PermanentError                   do not retry: the same job fails again
    │   ├── InvalidJob                   a parameter or a message that breaks the contract
    │   │   └── InvalidCsv               the same, found while reading a CSV
    │   ├── SourceNotFound               404, no such file or object
    │   ├── SourceForbidden              403, or an address that workers may not fetch
    │   ├── SourceTooLarge               more bytes or pixels than allowed
    │   ├── NotAnImage                   not decodable, truncated or an unsupported format
    │   ├── OutputForbidden              missing bucket, no permission, unsupported scheme
    │   ├── OutputFull                   no space left where results go
    │   ├── ShapeNotBuilt                the engine set holds no engine for this picture's size
    │   ├── OutOfMemory                  one sample alone does not fit in the device's memory
    │   ├── RenderFailed                 the engines raised, or gave NaN
    │   └── Quarantined                  the job took its worker down too many times
    ├── NewerMessage                     the message is of a version that this worker does not know: put it back
    ├── Cancelled                        the user asked for it
    ├── Requeued                       the worker is stopping; another one renders the job
    └── SettingsError                    a variable or an argument that stops start-up

Each leaf says whether to retry (`retry`) and whose fault it is (`blame`: user, operator or service); `kind` is the
stable word that the ledger, the sidecars and the metrics use.
"""

from __future__ import annotations

from typing import ClassVar


class RenderError(Exception):
    """The root. `str(error)` is a sentence that a user can act on."""

    kind: ClassVar[str] = "error"
    retry: ClassVar[bool] = False
    blame: ClassVar[str] = "operator"


class TransientError(RenderError):
    """The same job may succeed later."""

    kind = "transient"
    retry = True
    blame = "service"


class SourceUnavailable(TransientError):
    """Reading an input timed out, was throttled or met a server error."""

    kind = "source_unavailable"


class OutputUnavailable(TransientError):
    """Writing a result timed out, was throttled or met a server error."""

    kind = "output_unavailable"


class LedgerUnavailable(TransientError):
    """Redis does not answer."""

    kind = "ledger_unavailable"


class PermanentError(RenderError):
    """The same job would fail again."""

    kind = "permanent"
    blame = "user"


class InvalidJob(PermanentError):
    """A parameter or a message that breaks the contract."""

    kind = "invalid_job"


class InvalidCsv(InvalidJob):
    """A CSV that cannot be read as jobs."""

    kind = "invalid_csv"


class SourceNotFound(PermanentError):
    """The input does not exist."""

    kind = "source_not_found"


class SourceForbidden(PermanentError):
    """The input may not be read: access denied, or an address that workers may not fetch."""

    kind = "source_forbidden"


class SourceTooLarge(PermanentError):
    """The input has more bytes or pixels than allowed."""

    kind = "source_too_large"


class NotAnImage(PermanentError):
    """The input cannot be decoded as a picture."""

    kind = "not_an_image"


class OutputForbidden(PermanentError):
    """The result may not be written: missing bucket, no permission, unsupported scheme."""

    kind = "output_forbidden"
    blame = "operator"


class OutputFull(PermanentError):
    """No space is left where results go."""

    kind = "output_full"
    blame = "operator"


class ShapeNotBuilt(PermanentError):
    """The engine set holds no engine for this picture's size."""

    kind = "shape_not_built"
    blame = "operator"


class OutOfMemory(PermanentError):
    """One sample alone does not fit in the device's memory."""

    kind = "out_of_memory"
    blame = "operator"


class RenderFailed(PermanentError):
    """The engines raised, or produced values that are not numbers."""

    kind = "render_failed"
    blame = "operator"


class Quarantined(PermanentError):
    """The job took its worker down too many times."""

    kind = "quarantined"
    blame = "operator"


class NewerMessage(RenderError):
    """The message is of a newer version than this worker knows. A newer worker can read it, so it is put back."""

    kind = "newer_message"


class Cancelled(RenderError):
    """The user cancelled the job."""

    kind = "cancelled"
    blame = "user"


class Requeued(RenderError):
    """The worker is stopping before the job was rendered; another one will render it.

    `blameless` is False where the job itself may be why: its attempt counts then.
    """

    kind = "requeued"
    retry = True

    def __init__(self, message: str, *, blameless: bool = True) -> None:
        super().__init__(message)
        self.blameless = blameless


class SettingsError(RenderError):
    """A variable or an argument that stops start-up; the message names it."""

    kind = "settings"
