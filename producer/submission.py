"""The two records of a submission: what was asked (Request), and what came of it (Outcome)."""

from __future__ import annotations

import hashlib
import re
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from jobs.errors import InvalidCsv, InvalidJob, OutputForbidden
from jobs.job import BATCH_NAME, ENGINE_SET
from jobs.ledger.records import Enqueued
from jobs.settings import Settings
from jobs.storage.store import store_for
from jobs.uri import redacted, resolve_uri
from producer.console import STATES
from producer.exits import CommandFailed, Exit
from producer.prompt_defaults import option, prompt_defaults
from producer.prompt_warnings import PromptWarnings
from producer.table.reader import Problem

STDIN = Path("-")
DEVICES = ("/dev/", "/proc/")  # where a shell's `<(...)` has its name
SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class Request:
    """What the command line said, resolved.

    `origin` is what the ledger calls the source of the rows, `base` the folder where relative image paths start.
    `fingerprint` is the size and time of the file when the command began; None for a stream (a pipe, standard input).
    `prompts` has what empty cells of a_prompt and n_prompt mean in this file, where the command line says so.
    `engine_set` are the first digits of the digest of the one engine set that shall draw the rows, or None.
    """

    file: Path
    origin: str
    base: Path
    fingerprint: tuple[int, int] | None
    batch: str
    output: str
    skip_invalid: bool = False
    dry_run: bool = False
    wait: bool = False
    prompts: Mapping[str, str] = field(default_factory=dict)
    engine_set: str | None = None

    @classmethod
    def resolve(
        cls,
        settings: Settings,
        *,
        file: Path,
        batch: str | None = None,
        output: str | None = None,
        skip_invalid: bool = False,
        dry_run: bool = False,
        wait: bool = False,
        a_prompt: str | None = None,
        n_prompt: str | None = None,
        engine_set: str | None = None,
    ) -> Request:
        """Fill in what the command line left out, and refuse what cannot work.

        Raises:
            CommandFailed: a batch name, an output, a prompt or a digest that cannot be used.
            OSError: there is no such file.
        """
        is_stream = file == STDIN or _is_pipe(file)
        return cls(
            batch=_batch(file, batch, is_stream=is_stream),
            output=_output(settings, output),
            file=file,
            origin=_origin(file, is_stream=is_stream),
            base=Path.cwd() if is_stream else file.absolute().parent,
            fingerprint=None if is_stream else _fingerprint(file),
            skip_invalid=skip_invalid,
            dry_run=dry_run,
            wait=wait,
            prompts=prompt_defaults({"a_prompt": a_prompt, "n_prompt": n_prompt}),
            engine_set=None if engine_set is None else _engine_set(engine_set),
        )

    @property
    def name(self) -> str:
        """The source as people call it."""
        return "stdin" if self.file == STDIN else str(self.file)

    @property
    def options(self) -> dict[str, str]:
        """What the file must be submitted with again, by the names that PromptOptions has."""
        return dict(self.prompts) | ({} if self.engine_set is None else {"engine_set": self.engine_set})

    @property
    def again(self) -> str:
        """What a sentence about submitting the file again goes on with: ` with the same --n-prompt`, or ''."""
        options = [option(name) for name in self.options]
        return f" with the same {' and '.join(options)}" if options else ""

    @property
    def rejected_to(self) -> Path | None:
        """Where --skip-invalid writes the rejected rows: beside the CSV; for a stream, in the current folder."""
        if not self.skip_invalid:
            return None
        if self.fingerprint is None:
            return Path(f"{self.batch}.rejected.csv")
        return self.file.with_name(f"{self.file.stem}.rejected.csv")

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes of the CSV; those of a stream can be read once."""
        if self.file == STDIN:
            yield sys.stdin.buffer
            return
        with self.file.open("rb") as file:
            yield file

    def check_unchanged(self) -> None:
        """Notice a file that was written to while the command read it.

        Raises:
            InvalidCsv: it has changed since the command began; the sentence says what to do.
        """
        if self.fingerprint is not None and self.fingerprint != _fingerprint(self.file):
            raise InvalidCsv(
                f"{self.name} changed while it was being read; submit it again{self.again} when it is complete "
                "(what is queued stays)"
            )


@dataclass
class Outcome:
    """What came of a submission. `problems` holds the first few, `problem_count` counts all, so memory stays flat."""

    rows: int = 0
    rejected: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)
    unreadable: bool = False  # the file as a whole: nothing can be skipped
    remarks: tuple[str, ...] = ()  # on how the file was read
    absent: int = 0  # local pictures that are not on this machine, among the first rows (LOOKED_FOR in table/check.py)
    first_absent: tuple[int, str] | None = None  # line and path
    prompt_warnings: PromptWarnings = field(default_factory=PromptWarnings)  # of the good rows
    enqueued: Enqueued = field(default_factory=Enqueued)
    manifest_files: int | None = 0  # None: storage could not be reached
    seconds: float = 0.0

    @property
    def good(self) -> int:
        """Rows that can be rendered."""
        return self.rows - self.rejected

    @property
    def already(self) -> dict[str, int]:
        """The jobs that the ledger knew before, by state."""
        return self.enqueued.model_dump(include=set(STATES))

    def reject(self, problems: Sequence[Problem]) -> None:
        """Count a bad row and its problems."""
        self.rejected += 1
        self.add_problems(problems)

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Count problems and keep the first few."""
        self.problem_count += len(problems)
        self.problems += problems[: SHOWN_PROBLEMS - len(self.problems)]

    def is_refused(self, request: Request) -> bool:
        """Whether nothing may be enqueued, because of mistakes."""
        return self.unreadable or (self.rejected > 0 and not request.skip_invalid)

    def as_dict(self, request: Request) -> dict[str, object]:
        """The summary, for JSON."""
        record: dict[str, object] = {
            "batch": request.batch,
            "source": request.name,
            "output": redacted(request.output),
            "rows": self.rows,
            "rejected": self.rejected,
            "rejected_file": str(request.rejected_to) if request.rejected_to and self.rejected else None,
            "problem_count": self.problem_count,
            "prompt_warnings": self.prompt_warnings.as_list(),
        }
        if self.is_refused(request):
            return record | {"problems": [problem.as_dict() for problem in self.problems]}
        if request.dry_run:
            return record | {"dry_run": True}
        return record | {
            "enqueued": self.enqueued.added,
            "already": self.already,
            "recovered": self.enqueued.recovered,
            "replaced": self.enqueued.replaced,
            "seconds": round(self.seconds, 3),
            "rows_per_second": round(self.rows / self.seconds, 1) if self.seconds > 0 else None,
            "manifest_files": self.manifest_files,
        }


def batch_name(stem: str) -> str:
    """A file's stem as a batch name: letters, digits, dots, dashes and underscores; 'my jobs (2)' -> 'my-jobs-2'."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100].rstrip("-._")
    return name or f"batch-{hashlib.sha256(stem.encode()).hexdigest()[:8]}"


def _batch(file: Path, batch: str | None, *, is_stream: bool) -> str:
    if batch is None:
        if is_stream:
            kind = "standard input" if file == STDIN else f"a pipe ({file})"
            raise CommandFailed(Exit.USAGE, f"name the batch with --batch when the CSV comes from {kind}")
        return batch_name(file.stem)
    if not BATCH_NAME.fullmatch(batch):
        raise CommandFailed(
            Exit.USAGE,
            f"--batch {batch!r}: a batch name has up to 100 letters, digits, dots, dashes and underscores, "
            f"and begins with a letter or digit; {batch_name(batch)!r} would do",
        )
    return batch


def _output(settings: Settings, output: str | None) -> str:
    try:
        uri = resolve_uri(settings.output_uri if output is None else output, Path.cwd())
        store_for(uri)  # refuses what nothing can be written to, before a thousand workers find out
    except (InvalidJob, OutputForbidden) as error:
        named = "RENDER_OUTPUT_URI" if output is None else "--output"
        raise CommandFailed(Exit.USAGE, f"{named}: {error}") from error
    return uri.rstrip("/")


def _engine_set(text: str) -> str:
    digest = text.strip().lower()
    if not ENGINE_SET.fullmatch(digest):
        raise CommandFailed(
            Exit.USAGE,
            f"--engine-set {text!r}: name an engine set by its digest, or by the first 8 or more of its 64 hex digits "
            "(engines inspect prints it, and producer results names it for each job)",
        )
    return digest


def _origin(file: Path, *, is_stream: bool) -> str:
    if file == STDIN:
        return "stdin"
    if is_stream and str(file).startswith(DEVICES):
        return "pipe"  # `<(...)`: its number differs from run to run, and the same rows must keep the same source
    return file.absolute().as_uri()


def _is_pipe(file: Path) -> bool:
    with suppress(OSError):  # a missing file is reported when it is opened
        return stat.S_ISFIFO(file.stat().st_mode)
    return False


def _fingerprint(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
