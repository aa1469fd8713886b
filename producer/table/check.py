"""The check: a source is read once, its mistakes are counted, and its good rows come out."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

from jobs.job import RenderParameters
from jobs.prompts import PromptReading
from jobs.storage.file import whole_file
from producer.bucket_csv import upload
from producer.prompt_warnings import PromptWarnings
from producer.row_defaults import PROMPTS, values_of
from producer.submission import Outcome, Request
from producer.table.pictures import LOOKED_FOR
from producer.table.problem import CsvMistakes, Problem
from producer.table.reader import Record
from producer.table.rows import RowChecker
from producer.table.sources import open_source

UNDECODED_BYTES = "surrogateescape"  # a row whose bytes are not UTF-8 is written as it was


def check(request: Request, outcome: Outcome) -> Generator[tuple[int, RenderParameters]]:
    """Read the source and yield its good rows: row number and parameters.

    Mistakes are counted in `outcome`; rejected rows are written to `request.rejected_to`. Both are complete when the
    iteration has ended.

    Raises:
        OSError: the source cannot be read, or the rejected rows cannot be written.
        CommandFailed: what reads such a source is not installed.
    """
    outcome.prompt_warnings = PromptWarnings(
        {name: request.defaults[name] for name in PROMPTS if name in request.defaults},
        PromptReading(
            request.defaults.get("prompt_syntax") == "weighted", request.defaults.get("long_prompts") == "chunk"
        ),
    )
    try:
        with open_source(request) as table, RejectedRows(request.rejected_to) as rejected:
            outcome.remarks = tuple(table.remarks)
            checker = RowChecker(table.columns, request.base, defaults=values_of(request.defaults))
            for record in table.records:
                outcome.rows += 1
                result = _checked(record, checker, outcome)
                if isinstance(result, list):
                    outcome.reject(result)
                    rejected.add(record, result, columns=table.columns)
                    continue
                outcome.prompt_warnings.look_at(result, record.line, place=record.place)
                yield record.row, result
            outcome.remarks = tuple(table.remarks)
    except CsvMistakes as mistakes:
        outcome.unreadable = True
        outcome.add_problems(mistakes.problems)


def _checked(record: Record, checker: RowChecker, outcome: Outcome) -> RenderParameters | list[Problem]:
    result = checker.check(record)
    if not isinstance(result, list) and outcome.rows <= LOOKED_FOR:
        problem = outcome.pictures.look_for(result, line=record.line, place=record.place)
        result = [problem] if problem else result
    if isinstance(result, list) and record.place is not None:
        return [replace(problem, place=record.place) for problem in result]
    return result


class CheckedRows:
    """Good rows on their way from the check to the ledger. Use as a context manager.

    They wait in a temporary file, a line each, so memory stays flat and the CSV, which may be a pipe, is read once.

    Raises:
        OSError: the temporary file cannot be written; it names the folder.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="producer-")  # noqa: SIM115 (closed in __exit__)

    def add(self, row: int, parameters: RenderParameters) -> None:
        """Append a row."""
        try:
            self._file.write(b"%d " % row + parameters.model_dump_json(exclude_unset=True).encode() + b"\n")
        except OSError as error:
            raise _in_temporary_folder(error) from error

    def __iter__(self) -> Iterator[tuple[int, RenderParameters]]:
        """All rows, in the order in which they were added."""
        try:
            self._file.seek(0)  # writes what is buffered
        except OSError as error:
            raise _in_temporary_folder(error) from error
        for line in self._file:
            row, _, text = line.partition(b" ")
            yield int(row), RenderParameters.model_validate_json(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):  # a full disk has been reported by `add`
            self._file.close()


def _in_temporary_folder(error: OSError) -> OSError:
    return OSError(error.errno, error.strerror, tempfile.gettempdir())


class RejectedRows:
    """Writes rejected rows to a CSV that appears, whole, when all rows were read and some were bad.

    Text is the URI of a CSV in a bucket. Without a path it writes nothing. Use as a context manager; an exception that
    passes through leaves no file.
    """

    def __init__(self, path: Path | str | None) -> None:
        self._path = path
        self._writer: Any = None  # opened with the first row: a read-only folder matters only then
        self._stack = ExitStack()

    def add(self, record: Record, problems: Sequence[Problem], *, columns: Sequence[str]) -> None:
        """Write a row. Line and reason stand first, so that a row with too many cells still fits behind them."""
        if self._path is None:
            return
        if self._writer is None:
            path = self._path
            raw = self._stack.enter_context(_uploaded(path) if isinstance(path, str) else whole_file(path))
            file = TextIOWrapper(raw, encoding="utf-8", errors=UNDECODED_BYTES, newline="")
            self._stack.callback(file.detach)  # flushes
            self._writer = csv.writer(file)
            self._writer.writerow(["line", "reason", *columns])
        place = record.line if record.place is None else record.place
        self._writer.writerow([place, "; ".join(problem.reason() for problem in problems), *record.cells])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)


@contextmanager
def _uploaded(uri: str) -> Iterator[BinaryIO]:
    """A temporary file that is stored in a bucket when the block ends without an error."""
    with tempfile.NamedTemporaryFile(prefix="producer-") as file:
        try:
            yield cast(BinaryIO, file.file)
            file.flush()
        except OSError as error:
            if error.filename is None:
                raise _in_temporary_folder(error) from error
            raise
        upload(Path(file.name), uri)
