"""The manifest: what was submitted, kept beside the results, so that a lost ledger can be rebuilt.

    <output>/<batch>/manifest/<digest>.jsonl.gz

A part holds at most PART_JOBS jobs: line 1 is a SubmissionHead, and every other line is a job. A part's name is a
function of its source and its jobs, so submitting the same file again writes the same parts, and submitting a corrected
file writes only the parts that changed. Two files with the same rows do not overwrite each other's parts. (In the names
of earlier versions there is no source. Such a part is written once more when its file is submitted again.)

A URL with a password or a signature is a secret and is not kept. The manifest records only that such a job
exists, and only its CSV can bring it back.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.errors import InvalidJob
from jobs.job import JOB_ID, RenderJob, RenderParameters
from jobs.storage.retry import with_backoff
from jobs.storage.store import Store
from jobs.uri import redacted

PART_JOBS = 20_000  # about 2 MB compressed
TRIES = 3
FOLDER = "manifest"
CONTENT_TYPE = "application/gzip"
_ENDING = ".jsonl.gz"
_GZIP_BITS = 31  # zlib's window of 15 bits, plus 16: with the header and the checksum of a gzip file
_LONGEST_LINE = 2**17  # bytes; a job has four texts of 4,000 characters


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SubmissionHead(_Record):
    """The batch and the CSV that a part's jobs come from, and when they were submitted (seconds since the epoch)."""

    version: Literal[1] = 1
    batch: str
    source: str
    submitted_at: float


class SubmittedJob(_Record):
    """One job. `secret`: a picture's URL had a password or a signature, and is kept here without it.

    `engine_set` is left out where the job is not kept to one: earlier versions refuse keys that they do not know.
    """

    id: Annotated[str, Field(pattern=f"^{JOB_ID.pattern}$")]
    row: int
    parameters: RenderParameters
    secret: bool = False
    engine_set: str | None = None


@dataclass(frozen=True)
class Part:
    """A part in storage: its URI and its head."""

    uri: str
    head: SubmissionHead


class SubmissionWriter:
    """Takes jobs as they are submitted and writes a part whenever one is full. Memory stays flat.

    A write that fails for now is tried again, TRIES times in all.

    Raises:
        OutputForbidden, OutputFull, OutputUnavailable: from `add` and `close`, as the store does.
    """

    def __init__(
        self, store: Store, output: str, head: SubmissionHead, *, sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self.parts = 0
        self._store = store
        self._sleep = sleep
        self._folder = submission_folder(output, head.batch)
        self._head = head
        self._part = _PartInMemory(head)

    def add(self, jobs: Iterable[RenderJob]) -> None:
        """Add jobs of the head's batch."""
        for job in jobs:
            self._part.add(job)
            if self._part.jobs == PART_JOBS:
                self.close()

    def close(self) -> None:
        """Write the jobs that are not in a part yet."""
        part, self._part = self._part, _PartInMemory(self._head)
        if not part.jobs:
            return
        uri, data = f"{self._folder}/{part.name}{_ENDING}", part.packed()
        with_backoff(
            lambda: self._store.write(uri, data, CONTENT_TYPE), attempts=TRIES, base_seconds=0.5, sleep=self._sleep
        )
        self.parts += 1


class _PartInMemory:
    """A part, compressed as it grows."""

    def __init__(self, head: SubmissionHead) -> None:
        self.jobs = 0
        self._digest = hashlib.sha256(f"{head.source}\n".encode())
        # The fastest level: it must not slow a submission down, and the lines of one CSV are much alike. No GzipFile,
        # which has to be closed, also where a submission breaks off.
        self._gzip = zlib.compressobj(1, wbits=_GZIP_BITS)
        self._packed = bytearray(self._gzip.compress(head.model_dump_json().encode() + b"\n"))

    @property
    def name(self) -> str:
        return self._digest.hexdigest()[:20]

    def add(self, job: RenderJob) -> None:
        self._packed += self._gzip.compress(_line(job))
        self._digest.update(job.id.encode())
        self.jobs += 1

    def packed(self) -> bytes:
        return bytes(self._packed + self._gzip.flush())


def submission_folder(output: str, batch: str) -> str:
    """The folder of a batch's manifest."""
    return f"{output.rstrip('/')}/{batch}/{FOLDER}"


def part_uris(store: Store, output: str, batch: str) -> list[str]:
    """The parts of a batch's manifest, in no order; empty where there is no manifest.

    Raises:
        OutputForbidden, OutputUnavailable: storage does not answer.
    """
    folder = submission_folder(output, batch)
    return [f"{folder}/{name}" for name in store.names(folder) if name.endswith(_ENDING)]


def read_head(store: Store, uri: str) -> Part:
    """Read a part's first line.

    Raises:
        InvalidJob: it is not a manifest's first line; the sentence names the part.
        RenderError: storage does not answer.
    """
    try:
        return Part(uri, SubmissionHead.model_validate_json(next(_lines(store, uri), b"")))
    except ValidationError as error:
        raise _damaged(uri, "its first line is not a manifest's") from error


def ids_of(store: Store, part: Part) -> Iterator[str]:
    """The ids of the jobs of one part. Those in front of a damaged place come out.

    Raises:
        InvalidJob: the part is damaged.
    """
    lines = _lines(store, part.uri)
    next(lines)
    for line in lines:
        try:
            yield SubmittedJob.model_validate_json(line).id
        except ValidationError as error:
            raise _damaged(part.uri, "a line is not a job") from error


def jobs_of(store: Store, part: Part, *, output: str) -> Iterator[tuple[RenderJob, bool]]:
    """The jobs of one part in row order, each with whether its URL had a secret, which is missing now.

    Raises:
        InvalidJob: the part is damaged, or another version of this program gives its jobs other ids.
    """
    lines = _lines(store, part.uri)
    next(lines)
    for line in lines:
        try:
            submitted = SubmittedJob.model_validate_json(line)
            job = _job(submitted, batch=part.head.batch, output=output)
        except ValidationError as error:
            raise _damaged(part.uri, "a line is not a job") from error
        if submitted.secret:
            job = job.model_copy(update={"id": submitted.id})
        elif job.id != submitted.id:
            raise _damaged(part.uri, "a job's id is not the one that its parameters give")
        yield job, submitted.secret


def _job(submitted: SubmittedJob, *, batch: str, output: str) -> RenderJob:
    engine_set = submitted.engine_set
    return RenderJob.create(submitted.parameters, batch=batch, row=submitted.row, output=output, engine_set=engine_set)


def _line(job: RenderJob) -> bytes:
    shown = job.parameters.without_secrets()
    secret = shown is not job.parameters
    submitted = SubmittedJob(id=job.id, row=job.row, parameters=shown, secret=secret, engine_set=job.engine_set)
    unused = {"engine_set"} if job.engine_set is None else None
    return submitted.model_dump_json(exclude=unused).encode() + b"\n"


def _lines(store: Store, uri: str) -> Iterator[bytes]:
    """Unpack one line at a time, with a limit: anything may be in the part's place."""
    try:
        with gzip.open(io.BytesIO(store.read(uri)), "rb") as unpacked:
            while line := unpacked.readline(_LONGEST_LINE):
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(uri, "it cannot be unpacked") from error


def _damaged(uri: str, why: str) -> InvalidJob:
    return InvalidJob(
        f"the manifest {redacted(uri)} is damaged: {why}; submit the batch's CSV again instead (with the same "
        "options, if it had any)"
    )
