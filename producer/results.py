"""`producer results`: the results of all jobs that have ended, as JSON lines or CSV, in row order."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from itertools import groupby
from operator import itemgetter
from typing import IO, Literal, NamedTuple, TextIO

from jobs.job import RenderResult
from jobs.ledger.batches import stored_result
from jobs.ledger.damage import damaged, shown
from jobs.prompt_kinds import EMPTY
from producer.console import count, place, printable, say
from producer.exits import CommandFailed, Exit
from producer.output import json_wanted, takes_unicode, to_terminal, writing_stdout
from producer.session import Session, open_session

Format = Literal["jsonl", "csv", "text"]
IN_SIDECARS_ONLY = frozenset({"parameters", "built_with"})
NOT_IN_CSV = frozenset({"version", "seconds", *IN_SIDECARS_ONLY})
CSV_COLUMNS = [name for name in RenderResult.model_fields if name not in NOT_IN_CSV]


def results(batch: str, *, format: Format | None, states: Collection[str]) -> Exit:
    """Stream the results to stdout; `states` narrows them, empty means all.

    Without a format they are JSON lines where JSON is wanted, and lines for people on a terminal.

    Raises:
        CommandFailed: no such batch, or standard output is closed.
        OSError: standard output cannot be written.
    """
    if sys.stdout is None:
        raise CommandFailed(Exit.STORAGE, "standard output is closed; send the results to a file or a program")
    session = open_session()
    session.batch(batch)
    format = format or ("jsonl" if json_wanted() else "text")
    write = {"csv": write_csv, "jsonl": write_jsonl, "text": write_text}[format]
    with writing_stdout() as stdout:
        written = write(in_row_order(ended_results(session, batch, states), batch=batch), stdout)
    counts = session.ledger.counts(batch)
    if counts.superseded and "superseded" not in states:
        say(f"{count(counts.superseded, 'earlier version')} of corrected rows left out: --state superseded shows them")
    if counts.unfinished:
        say(f"{count(written, 'result')}; {count(counts.unfinished, 'job has', 'jobs have')} not ended yet", "warning")
    return Exit.OK


class Stored(NamedTuple):
    """A result as the ledger keeps it, JSON, and its row. It is checked when it is read again: that takes longer."""

    row: int
    text: str


def ended_results(session: Session, batch: str, states: Collection[str] = ()) -> Iterator[Stored]:
    """Results of a batch in no order: of the newest version of each row, or (`superseded`) of the earlier ones."""
    wanted = set(states) - {"superseded"}
    for text in session.ledger.result_texts(batch, superseded="superseded" in states):
        with damaged(batch, f"{shown(text)} is not the result of a job"):
            record = json.loads(text)
            stored = Stored(int(record["row"]), text)
            is_wanted = not wanted or record["state"] in wanted
        if is_wanted:
            yield stored


def in_row_order(results: Iterable[Stored], *, batch: str = "") -> Iterator[RenderResult]:
    """The same results sorted by row, each once: a Redis scan may return an entry twice.

    Raises:
        LedgerDamaged: one of them is not a result; the sentence names the `batch`.
    """
    with ordered_results(results, batch=batch) as ordered:
        yield from ordered


@contextmanager
def ordered_results(results: Iterable[Stored], *, batch: str = "") -> Iterator[OrderedResults]:
    """Results to be read in row order, each once. All of `results` are read at the beginning.

    They wait in a temporary file; only a row number and an offset each stay in memory.
    """
    with tempfile.TemporaryFile(prefix="producer-") as spool:
        offsets: list[tuple[int, int]] = []
        at = 0
        for result in results:
            offsets.append((result.row, at))
            at += _add(spool, result.text)
        offsets.sort()
        yield OrderedResults(spool, offsets, batch)


def _add(spool: IO[bytes], text: str) -> int:
    try:
        return spool.write(text.replace("\n", " ").encode() + b"\n")  # a line break between JSON's values is a space
    except OSError as error:
        raise OSError(error.errno, error.strerror, tempfile.gettempdir()) from error


class OrderedResults:
    """Results in a file, and where each begins, sorted by row. Their number is known before they are read."""

    def __init__(self, spool: IO[bytes], offsets: list[tuple[int, int]], batch: str) -> None:
        self._spool = spool
        self._batch = batch
        self._offsets = self._each_once(offsets)

    def __len__(self) -> int:
        return len(self._offsets)

    def __iter__(self) -> Iterator[RenderResult]:
        return map(self._read, self._offsets)

    def _each_once(self, offsets: list[tuple[int, int]]) -> list[int]:
        kept: list[int] = []
        for _, group in groupby(offsets, key=itemgetter(0)):
            of_row = [offset for _, offset in group]
            if len(of_row) > 1:  # a row that was corrected and submitted again has two jobs, too
                of_row = list({self._read(offset).id: offset for offset in reversed(of_row)}.values())[::-1]
            kept += of_row
        return kept

    def _read(self, offset: int) -> RenderResult:
        self._spool.seek(offset)
        return stored_result(self._batch, self._spool.readline())


def write_jsonl(results: Iterator[RenderResult], stream: TextIO) -> int:
    """One JSON object a line. Returns how many."""
    is_ascii = not takes_unicode()
    written = 0
    for result in results:
        line = result.model_dump_json(exclude=set(IN_SIDECARS_ONLY))
        stream.write((json.dumps(json.loads(line)) if is_ascii else line) + "\n")
        written += 1
    return written


def write_text(results: Iterator[RenderResult], stream: TextIO) -> int:
    """One line a result: its row, its state, and its pictures or why it has none. Returns how many."""
    written = 0
    for result in results:
        end = " ".join(map(place, result.samples)) or f"{result.error_kind or result.state}: {result.error or ''}"
        stream.write(f"row {result.row}  {result.state:<9}  {printable(end.replace(chr(10), ' '))}\n")
        written += 1
    return written


def write_csv(results: Iterator[RenderResult], stream: TextIO) -> int:
    """One row a result; several samples or warnings share a cell, one a line. Returns how many.

    An empty prompt is `<empty>`, as in the CSV that was submitted. A terminal gets no control characters.
    """
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    is_shown = to_terminal()
    written = 0
    for result in results:
        values = result.model_dump(exclude=set(NOT_IN_CSV)) | {"prompt": result.prompt or EMPTY}
        cells = ["\n".join(v) if isinstance(v, tuple) else v for v in values.values()]
        writer.writerow([printable(cell) if is_shown and isinstance(cell, str) else cell for cell in cells])
        written += 1
    return written
