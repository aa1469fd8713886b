"""The two records of a submission: what was asked (Request), and what came of it (Outcome)."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from jobs.errors import InvalidCsv, InvalidJob, OutputForbidden
from jobs.job import BATCH_NAME, ENGINE_SET
from jobs.ledger.records import Enqueued
from jobs.settings import Settings
from jobs.storage.store import store_for
from jobs.uri import path_of, redacted, resolve_uri
from producer.bucket_csv import beside, downloaded, folder_of, is_bucket_folder, local_or_bucket
from producer.console import STATES
from producer.exits import CommandFailed, Exit
from producer.prompt_warnings import PromptWarnings
from producer.row_defaults import option, row_defaults
from producer.source_kind import NAMES, Kind, kind_of
from producer.stream import ORIGIN, STDIN, is_stream, spooled
from producer.stream import kind as kind_of_stream
from producer.table.folder import absolute
from producer.table.pictures import LocalPictures
from producer.table.problem import Problem

SHOWN_PROBLEMS = 20
AGAIN_IN_BUCKET = (
    "--again reads the pictures of a folder on this machine, and {uri} is in a bucket; copy them here first"
)


@dataclass(frozen=True)
class Request:
    """What the command line said, resolved.

    `origin` is what the ledger calls the source of the rows, `base` the folder where relative image paths start.
    `kind` says what reads it. A folder (`folder`, `again`) is looked into once.
    `fingerprint` is the size and time of the file when the command began; None for what is copied before it is read:
    a stream (producer/stream.py), and what is in a bucket, which has a `uri` (producer/bucket_csv.py): that of a folder
    ends with '/'.
    `defaults` has what empty cells of a column mean in this file, as text, where the command line says so.
    `engine_set` are the first digits of the digest of the one engine set that is to draw the rows, or None.
    """

    file: Path
    origin: str
    base: Path | str
    fingerprint: tuple[int, int] | None
    batch: str
    output: str
    kind: Kind = "csv"
    uri: str | None = None
    skip_invalid: bool = False
    dry_run: bool = False
    wait: bool = False
    defaults: Mapping[str, str] = field(default_factory=dict)
    engine_set: str | None = None

    @classmethod
    def resolve(
        cls,
        settings: Settings,
        *,
        file: Path | str,
        batch: str | None = None,
        output: str | None = None,
        skip_invalid: bool = False,
        dry_run: bool = False,
        wait: bool = False,
        defaults: Mapping[str, str | None] | None = None,
        engine_set: str | None = None,
        input_format: str | None = None,
        again: bool = False,
    ) -> Request:
        """Fill in what the command line left out, and refuse what cannot work.

        Raises:
            CommandFailed: a source, a batch name, an output, an option for rows or a digest that cannot be used.
            OSError: there is no such file.
        """
        file, uri = local_or_bucket(file)
        streams = uri is None and is_stream(file)
        if again and not (streams or uri):
            _fingerprint(file)  # says so, if there is no such folder
        is_folder = is_bucket_folder(uri) if uri else file.is_dir()
        if again and uri:
            raise CommandFailed(Exit.USAGE, AGAIN_IN_BUCKET.format(uri=redacted(uri)))
        kind = kind_of(file, is_folder=is_folder, input_format=input_format, again=again)
        given = _row_defaults(uri or file, kind, defaults or {})
        origin, base = (uri, folder_of(uri)) if uri else _origin_and_base(file, streams=streams)
        return cls(
            batch=_batch(file, batch, streams=streams, kind=kind),
            output=output_uri(settings, output),
            kind=kind,
            uri=uri,
            file=file,
            origin=origin,
            base=base,
            fingerprint=None if streams or uri else _fingerprint(file),
            skip_invalid=skip_invalid,
            dry_run=dry_run,
            wait=wait,
            defaults=given,
            engine_set=None if engine_set is None else _engine_set(engine_set),
        )

    @property
    def name(self) -> str:
        """The source as people call it."""
        if self.uri is not None:
            return redacted(self.uri)
        return ORIGIN if self.file == STDIN else str(self.file)

    @property
    def is_folder(self) -> bool:
        """Whether the rows are the pictures of a folder, which may get others at any time."""
        return self.kind in ("folder", "again")

    @property
    def options(self) -> dict[str, str]:
        """What the file must be submitted with again, by the names that PromptOptions has."""
        return dict(self.defaults) | ({} if self.engine_set is None else {"engine_set": self.engine_set})

    @property
    def again(self) -> str:
        """What a sentence about submitting the file again goes on with: ` with the same --n-prompt`, or ''."""
        options = [option(name) for name in self.options]
        return f" with the same {' and '.join(options)}" if options else ""

    @property
    def rejected_to(self) -> Path | str | None:
        """Where --skip-invalid writes the rejected rows: beside the file or folder (text: a URI in its bucket); for a
        stream, in the current folder.
        """
        if not self.skip_invalid:
            return None
        if self.uri is not None:
            stem = self.file.name if self.is_folder else self.file.stem
            return beside(self.uri.rstrip("/"), f"{stem}.rejected.csv")
        if self.fingerprint is None:
            return Path(f"{self.batch}.rejected.csv")
        if self.is_folder:
            folder = absolute(self.file)
            return folder.with_name(f"{folder.name or self.batch}.rejected.csv")
        return self.file.with_name(f"{self.file.stem}.rejected.csv")

    @contextmanager
    def open(self) -> Iterator[BinaryIO]:
        """The bytes of the file; those of a stream can be read once."""
        with self._opened() as file:
            yield file

    def _opened(self) -> AbstractContextManager[BinaryIO]:
        if self.uri is not None:
            return downloaded(self.uri)
        is_text = self.kind != "parquet"
        return spooled(self.file, is_text=is_text) if self.fingerprint is None else self.file.open("rb")

    def joined_to(self, source: str | None) -> Request:
        """This request as one of the batch's first source, if earlier versions gave that name to a stream."""
        names = () if self.uri or self.fingerprint else ("pipe", self.file.absolute().as_uri())
        return replace(self, origin=source) if source is not None and source in names else self

    def check_unchanged(self) -> None:
        """Notice a file that was written to while the command read it.

        Raises:
            InvalidCsv: it has changed since the command began; the sentence says what to do.
        """
        if self.is_folder or self.fingerprint is None:
            return  # a picture that came meanwhile is a new row of the next submission
        if self.fingerprint != _fingerprint(self.file):
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
    pictures: LocalPictures = field(default_factory=LocalPictures)
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

    @property
    def absent(self) -> int:
        """Local pictures that are not on this machine, among the first rows."""
        return self.pictures.absent

    @property
    def first_absent(self) -> tuple[int, str] | None:
        """The line and the path of the first of them."""
        return self.pictures.first_absent

    def reject(self, problems: Sequence[Problem]) -> None:
        """Count a bad row and its problems."""
        self.rejected += 1
        self.add_problems(problems)

    def add_problems(self, problems: Sequence[Problem]) -> None:
        """Count problems and keep the first few."""
        self.problem_count += len(problems)
        self.problems += problems[: SHOWN_PROBLEMS - len(self.problems)]

    def has_no_pictures(self, request: Request) -> bool:
        """Whether a folder is empty: its name is wrong, or its share is not mounted. A table may have no rows."""
        return request.is_folder and not (self.rows or self.unreadable)

    def is_refused(self, request: Request) -> bool:
        """Whether nothing may be enqueued, because of mistakes."""
        return self.unreadable or (self.rejected > 0 and not request.skip_invalid)

    def exit_code(self, request: Request) -> Exit:
        """What the check of the rows came to."""
        if self.is_refused(request):
            return Exit.INVALID_CSV
        return Exit.NOT_FOUND if self.has_no_pictures(request) else Exit.OK

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


def _origin_and_base(file: Path, *, streams: bool) -> tuple[str, Path]:
    if streams:
        return ORIGIN, Path.cwd()
    if file.is_dir():
        folder = absolute(file)
        return folder.as_uri(), folder
    return file.absolute().as_uri(), file.absolute().parent


def _row_defaults(file: Path | str, kind: Kind, defaults: Mapping[str, str | None]) -> dict[str, str]:
    """What options say. A folder says nothing of prompts, and a picture that was made says its own."""
    given = row_defaults(defaults)
    if kind == "folder" and "prompt" not in given:
        raise CommandFailed(
            Exit.USAGE,
            f"{file} is a folder: give its pictures a prompt, as in producer submit {file} --prompt 'a watercolour'; "
            "or render pictures that say how they were made once more, with --again; or name a CSV",
        )
    if kind == "again" and "prompt" in given:
        raise CommandFailed(Exit.USAGE, "--prompt does not go with --again: the pictures say their prompts")
    return given


def batch_name(stem: str) -> str:
    """A file's stem as a batch name: letters, digits, dots, dashes and underscores; 'my jobs (2)' -> 'my-jobs-2'."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:100].rstrip("-._")
    return name or f"batch-{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"


def output_uri(settings: Settings, output: str | None) -> str:
    """Where results go: the option `--output` if there is one, otherwise RENDER_OUTPUT_URI.

    Raises:
        CommandFailed: nothing can be written to such a place; the sentence names the option or the variable.
    """
    try:
        uri = resolve_uri(settings.output_uri if output is None else output, Path.cwd(), for_output=True)
        # Refuse what nothing can be written to, before a thousand workers find out.
        store_for(uri)
        _check_folder(uri)
    except (InvalidJob, OutputForbidden) as error:
        named = "RENDER_OUTPUT_URI" if output is None else "--output"
        raise CommandFailed(Exit.USAGE, f"{named}: {error}") from error
    return uri.rstrip("/")


def _check_folder(uri: str) -> None:
    """Raise InvalidJob if a file is in the way of a folder above a local output.

    A file in place of the output itself may be removed before workers write; writing the manifest reports it.
    """
    if not uri.startswith("file:"):
        return
    path = path_of(uri)
    # What does not exist from here is made by a worker, or is a share that this machine has not mounted.
    around = next((str(each) for each in path.parents if os.path.exists(each)), "/")  # noqa: PTH110 (no OSError)
    if not os.path.isdir(around):  # noqa: PTH112 (likewise)
        kind_of_it = "a file" if os.path.isfile(around) else "not a folder"  # noqa: PTH113 (likewise)
        raise InvalidJob(f"{around} is {kind_of_it}; name a folder")


def _batch(file: Path, batch: str | None, *, streams: bool, kind: Kind) -> str:
    if batch is None:
        if streams:
            raise CommandFailed(
                Exit.USAGE,
                f"name the batch with --batch when the {NAMES[kind]} comes from {kind_of_stream(file)}: "
                f"producer submit {file} --batch nightly (the same rows with the same name again go on where they "
                "were)",
            )
        return batch_name(_stem(file, kind))
    if not BATCH_NAME.fullmatch(batch):
        raise CommandFailed(
            Exit.USAGE,
            f"--batch {batch!r}: a batch name has up to 100 letters, digits, dots, dashes and underscores, "
            f"and begins with a letter or digit; {batch_name(batch)!r} would do",
        )
    return batch


def _stem(file: Path, kind: Kind) -> str:
    """What the batch is called. Pictures that are rendered again are a batch beside the one that they may be of."""
    if kind not in ("folder", "again"):
        return file.stem
    name = absolute(file).name
    return name if kind == "folder" else f"{name}-again"


def _engine_set(text: str) -> str:
    digest = text.strip().lower()
    if not ENGINE_SET.fullmatch(digest):
        raise CommandFailed(
            Exit.USAGE,
            f"--engine-set {text!r}: name an engine set by its digest, or by the first 8 or more of its 64 hex digits "
            "(engines inspect prints it, and producer results names it for each job)",
        )
    return digest


def _fingerprint(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns
