"""What the ledger says of a batch, a job and a worker.

Fields that a newer version of this program adds are ignored when an older one reads them.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

State = Literal["queued", "running", "done", "failed", "cancelled", "superseded"]
# Why a worker ended by itself: the names of its exit codes 4, 5 and 1.
Exit = Literal["engines_refused", "device_lost", "failed"]
TERMINAL: frozenset[str] = frozenset({"done", "failed", "cancelled", "superseded"})


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)


class BatchInfo(_Record):
    """What was first submitted under a batch's name, and when (seconds since the epoch)."""

    name: str
    output: str
    source: str
    created_at: float

    @property
    def folder(self) -> str:
        """`<output>/<name>`, where the files of its jobs go."""
        return f"{self.output.rstrip('/')}/{self.name}"

    def row_prefix(self, source: str) -> str:
        """What to put before a row's number, so that rows of another file do not replace those of the first one."""
        return "" if source == self.source else hashlib.sha256(source.encode()).hexdigest()[:8] + ":"


class PromptOptions(_Record):
    """What empty cells of one source mean in a batch, by column: {'n_prompt': ''}.

    They are part of the jobs' ids, so a file joins its batch again with the same ones only. So does the engine set that
    the rows are kept to, which stands among them as `engine_set`: earlier versions compare it too, and refuse to join
    the file without it.
    """

    version: Literal[1] = 1
    source: str
    prompts: dict[str, str]


class Counts(_Record):
    """Jobs of one batch by state. `superseded` are earlier versions of corrected rows; `total` leaves them out."""

    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0
    superseded: int = 0

    @property
    def total(self) -> int:
        """The jobs of the batch, one for each row."""
        return self.unfinished + self.finished

    @property
    def known(self) -> int:
        """All jobs that the ledger has, earlier versions of rows too. Only a loss or a deletion makes them fewer."""
        return self.total + self.superseded

    @property
    def unfinished(self) -> int:
        """Jobs that wait or run."""
        return self.queued + self.running

    @property
    def finished(self) -> int:
        """Jobs in a terminal state."""
        return self.done + self.failed + self.cancelled


class EngineSetJobs(_Record):
    """One engine set, named by its digest and the model in it, and how many done jobs of a batch it drew."""

    engine_set: str
    model: str | None = None
    jobs: int


class EngineSets(_Record):
    """The engine sets that drew the done jobs of a batch, those of the most jobs first.

    `unknown` are done jobs of which only their results say which set drew them: workers of an earlier version ended
    them without counting. Where rows ask for models, `by_model` has the sets by model: None, of the rows that ask for
    none, comes first, and then the names in order.
    """

    sets: tuple[EngineSetJobs, ...] = ()
    unknown: int = 0
    by_model: tuple[tuple[str | None, tuple[EngineSetJobs, ...]], ...] = ()

    @property
    def differing(self) -> tuple[tuple[str | None, tuple[EngineSetJobs, ...]], ...]:
        """The models in `by_model` whose rows more than one set drew."""
        by_model = self.by_model or ((None, self.sets),)
        return tuple((model, sets) for model, sets in by_model if len(sets) > 1)

    @property
    def differ(self) -> bool:
        """Whether more than one set drew the rows of one model, as far as is known. Rows of two models always do."""
        return bool(self.differing)


class Enqueued(_Record):
    """What `enqueue` did, in jobs.

    `added` are queued now, `recovered` have their result in storage, and `replaced` are earlier versions of corrected
    rows. The others were known already, by their state.
    """

    added: int = 0
    recovered: int = 0
    replaced: int = 0
    queued: int = 0
    running: int = 0
    done: int = 0
    failed: int = 0
    cancelled: int = 0

    def __add__(self, other: Enqueued) -> Enqueued:
        return Enqueued(**{name: getattr(self, name) + getattr(other, name) for name in Enqueued.model_fields})


class Start(_Record):
    """Whether a worker that got a message is to render its job. `attempts` includes this start.

    run          render it
    finished     it ended before; the message is left over
    in_flight    a live worker has it
    cancelled    the ledger has it as cancelled or superseded
    cancel       it was cancelled while it ran: this worker records that
    quarantined  it was started too often: this worker records that
    last         not started: it would be the last start before quarantine; ask again to make it

    `adopted`: the ledger did not know the job, so only storage can tell whether it is done already.
    """

    decision: Literal["run", "finished", "in_flight", "cancelled", "cancel", "quarantined", "last"]
    attempts: int
    adopted: bool = False


@dataclass(frozen=True, slots=True)  # no pydantic: a batch may have a million, and Redis is ours
class JobState:
    """One job's line in the ledger; `text` is the line as stored, for compare-and-set."""

    id: str
    state: State
    attempts: int
    worker: str | None
    since: float | None
    text: str

    @property
    def delayed(self) -> bool:
        """Whether an entry among the delayed jobs stands for the job's message."""
        return self.text.endswith(" delayed")


class HeldSet(_Record):
    """An engine set that a worker holds: the name that rows call it by, its digest, and the model in it."""

    name: str
    engine_set: str
    model: str | None = None


class WorkerFacts(_Record):
    """What a worker says of itself. Every field may be missing: workers of an earlier version do not send them.

    `settings` is a digest of the settings that decide what the worker refuses, `engine_set` the digest of its engine
    set's manifest (of several sets, that of rows without a model), `sets` all that it holds, `paused` why it takes no
    jobs (None: it takes jobs), and `last_error` its last error that was not a job's fault. None of them holds a secret.
    `started_at` is in seconds since the epoch, by the worker's own clock.
    """

    queue: str | None = None  # the ledger fills it in
    settings: str | None = None
    engine_set: str | None = None
    model: str | None = None
    sets: tuple[HeldSet, ...] | None = None
    host: str | None = None
    started_at: float | None = None
    paused: str | None = None
    last_error: str | None = None

    @property
    def held(self) -> tuple[HeldSet, ...]:
        """The sets that it holds; a worker of an earlier version says the digest of its one set, and no name."""
        if self.sets is not None or self.engine_set is None:
            return self.sets or ()
        return (HeldSet(name="", engine_set=self.engine_set, model=self.model),)


class Heartbeat(_Record):
    """A worker's sign of life: the ids of its jobs in flight, and when (seconds since the epoch, by its own clock)."""

    worker: str
    # In JSON the key is `held`; dump by alias.
    in_flight: tuple[str, ...] = Field(validation_alias=AliasChoices("held", "in_flight"), serialization_alias="held")
    at: float
    facts: WorkerFacts = WorkerFacts()


class Refusal(_Record):
    """A worker's refusal of a job, for a fault of its own.

    `by` says of whom the refusal is true: it is the digest of the settings that refused (WorkerFacts.settings), or the
    name of the worker. `times` counts how often they refused this job, and `at` is in seconds since the epoch; the
    ledger replaces it by the time of Redis' clock.
    """

    by: str
    worker: str
    kind: str
    text: str
    at: float
    times: int = 1


_REFUSALS = TypeAdapter(tuple[Refusal, ...])


def refusals_in(text: str) -> tuple[Refusal, ...]:
    """A job's refusals as the ledger keeps them; none where another program wrote something else there."""
    try:
        return _REFUSALS.validate_json(text)
    except ValidationError:
        return ()


class Refused(_Record):
    """What became of a refused job.

    `final`: every live worker refused it, or its attempts are used up. The job is still `running`, and the caller
    records it as failed. Otherwise it is queued and comes back after `delay_seconds`. `refusals` has what each worker
    said, oldest first; it is empty where the job was not the caller's any more, so that nothing was changed.
    """

    final: bool
    refusals: tuple[Refusal, ...] = ()
    delay_seconds: float = 0.0


class Refutation(_Record):
    """A job that one worker refused and that another one (`by_worker`) finished.

    `kind` and `text` are the refusal's. `refused_at` is when it was last refused, and `at` when the job was finished,
    both in seconds since the epoch by Redis' clock.
    """

    batch: str
    job: str
    row: int | None = None
    by_worker: str
    kind: str
    text: str
    at: float
    refused_at: float | None = None


def parse_state(id_: str, text: str) -> JobState:
    """Read one line of the `states` hash."""
    parts = text.split()
    running = len(parts) >= 4
    return JobState(
        id=id_,
        state=cast(State, parts[0]),
        attempts=int(parts[1]),
        worker=parts[2] if running else None,
        since=float(parts[3]) if running else None,
        text=text,
    )
