"""The manifest: what was submitted, kept beside the results, so that a ledger that was lost can be made again.

    <output>/<batch>/manifest/<digest>.jsonl.gz

A part holds PART_JOBS jobs at most: line 1 is a SubmissionHead, each other one a job. Its name is a function of
its jobs, so the same file submitted again writes the same parts, and a corrected one only those that changed.

A URL with a password or a signature is a secret and is not kept: of such a job the manifest knows that it exists, and
only its CSV can bring it back.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from jobs.errors import InvalidJob
from jobs.job import RenderJob, RenderParameters
from jobs.storage.store import Store
from jobs.uri import redacted

PART_JOBS = 20_000  # some 2 MB compressed
FOLDER = "manifest"
CONTENT_TYPE = "application/gzip"
_ENDING = ".jsonl.gz"
_LONGEST_LINE = 2**17  # bytes; a job has four texts of 4,000 characters


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SubmissionHead(_Record):
    """Whose jobs a part holds, and when they were submitted (seconds since the epoch)."""

    version: Literal[1] = 1
    batch: str
    source: str
    submitted_at: float


class SubmittedJob(_Record):
    """One job. `secret`: the image's URL held a password or a signature and stands here without it."""

    id: str
    row: int
    parameters: RenderParameters
    secret: bool = False


@dataclass(frozen=True)
class Part:
    """One part that is there: its URI and its head."""

    uri: str
    head: SubmissionHead


class SubmissionWriter:
    """Takes jobs as they are submitted and writes a part whenever one is full. Memory stays flat.

    Raises:
        OutputForbidden, OutputFull, OutputUnavailable: from `add` and `close`, as the writer does.
    """

    def __init__(self, writer: Store, output: str, head: SubmissionHead) -> None:
        self.parts = 0
        self._writer = writer
        self._folder = submission_folder(output, head.batch)
        self._head = head
        self._part = _PartInMemory(head)

    def add(self, jobs: Iterable[RenderJob]) -> None:
        """Note jobs of the head's batch."""
        for job in jobs:
            self._part.add(job)
            if self._part.jobs == PART_JOBS:
                self.close()

    def close(self) -> None:
        """Write what is left."""
        part, self._part = self._part, _PartInMemory(self._head)
        if part.jobs:
            self._writer.write(f"{self._folder}/{part.name}{_ENDING}", part.packed(), CONTENT_TYPE)
            self.parts += 1


class _PartInMemory:
    """Compressed as it grows."""

    def __init__(self, head: SubmissionHead) -> None:
        self.jobs = 0
        self._digest = hashlib.sha256()
        self._buffer = io.BytesIO()
        # The quickest level: a submission must not become slower by it, and lines of one CSV are much alike.
        self._gzip = gzip.GzipFile(fileobj=self._buffer, mode="wb", compresslevel=1, mtime=0)
        self._gzip.write(head.model_dump_json().encode() + b"\n")

    @property
    def name(self) -> str:
        return self._digest.hexdigest()[:20]

    def add(self, job: RenderJob) -> None:
        self._gzip.write(_line(job))
        self._digest.update(job.id.encode())
        self.jobs += 1

    def packed(self) -> bytes:
        self._gzip.close()
        return self._buffer.getvalue()


def submission_folder(output: str, batch: str) -> str:
    """Where a batch's manifest lies."""
    return f"{output.rstrip('/')}/{batch}/{FOLDER}"


def part_uris(writer: Store, output: str, batch: str) -> list[str]:
    """The parts of a batch's manifest, in no order; none where nothing was kept.

    Raises:
        OutputForbidden, OutputUnavailable: storage does not answer.
    """
    folder = submission_folder(output, batch)
    return [f"{folder}/{name}" for name in writer.names(folder) if name.endswith(_ENDING)]


def read_head(writer: Store, uri: str) -> Part:
    """A part's first line.

    Raises:
        InvalidJob: it is none; the sentence names the part.
        RenderError: storage does not answer.
    """
    try:
        return Part(uri, SubmissionHead.model_validate_json(next(_lines(writer, uri), b"")))
    except ValidationError as error:
        raise _damaged(uri, "its first line is not a manifest's") from error


def jobs_of(writer: Store, part: Part, *, output: str) -> Iterator[tuple[RenderJob, bool]]:
    """The jobs of one part in row order, each with whether its URL had a secret that is not kept.

    Raises:
        InvalidJob: the part is damaged, or another version of this program gives its jobs other ids.
    """
    lines = _lines(writer, part.uri)
    next(lines)
    for line in lines:
        try:
            noted = SubmittedJob.model_validate_json(line)
            job = RenderJob.create(noted.parameters, batch=part.head.batch, row=noted.row, output=output)
        except ValidationError as error:
            raise _damaged(part.uri, "a line is no job") from error
        if noted.secret:
            job = job.model_copy(update={"id": noted.id})
        elif job.id != noted.id:
            raise _damaged(part.uri, "a job's id is not the one that its parameters give")
        yield job, noted.secret


def _line(job: RenderJob) -> bytes:
    shown = redacted(job.parameters.image)
    secret = shown != job.parameters.image
    parameters = job.parameters.model_copy(update={"image": shown}) if secret else job.parameters
    noted = SubmittedJob(id=job.id, row=job.row, parameters=parameters, secret=secret)
    return noted.model_dump_json().encode() + b"\n"


def _lines(writer: Store, uri: str) -> Iterator[bytes]:
    """Unpacked a line at a time: what stands in the part's place may be anything."""
    try:
        with gzip.open(io.BytesIO(writer.read(uri)), "rb") as unpacked:
            while line := unpacked.readline(_LONGEST_LINE):
                yield line
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(uri, "it cannot be unpacked") from error


def _damaged(uri: str, why: str) -> InvalidJob:
    return InvalidJob(f"the manifest {redacted(uri)} is damaged: {why}; submit the batch's CSV again instead")
