"""`producer results`: what became of every job that has ended, as JSON lines or CSV, in row order."""

from __future__ import annotations

import csv
import sys
from collections.abc import Collection, Iterator
from typing import Literal, TextIO

from jobs.job import RenderResult
from producer.console import count, say
from producer.exits import Exit
from producer.roworder import in_row_order
from producer.session import Session, open_session

Format = Literal["jsonl", "csv"]
NOT_IN_CSV = frozenset({"version", "seconds", "parameters"})
CSV_COLUMNS = [name for name in RenderResult.model_fields if name not in NOT_IN_CSV]


def results(batch: str, *, format: Format, states: Collection[str]) -> Exit:
    """Stream the results to stdout; `states` narrows them, empty means all.

    Raises:
        CommandFailed: no such batch.
    """
    session = open_session()
    session.batch(batch)
    write = write_csv if format == "csv" else write_jsonl
    written = write(ended_results(session, batch, states), sys.stdout)
    counts = session.ledger.counts(batch)
    going_on = counts.queued + counts.running
    if counts.superseded and "superseded" not in states:
        say(f"{count(counts.superseded, 'earlier version')} of corrected rows left out: --state superseded shows them")
    if going_on:
        say(f"{count(written, 'result')}; {count(going_on, 'job has', 'jobs have')} not ended yet", "warning")
    return Exit.OK


def ended_results(session: Session, batch: str, states: Collection[str] = ()) -> Iterator[RenderResult]:
    """Results of a batch in row order: of the newest version of each row, or (`superseded`) of the earlier ones."""
    found = session.ledger.results(batch, superseded="superseded" in states)
    states = set(states) - {"superseded"}
    return in_row_order(result for result in found if not states or result.state in states)


def write_jsonl(results: Iterator[RenderResult], stream: TextIO) -> int:
    """One JSON object a line. Returns how many."""
    written = 0
    for result in results:
        stream.write(result.model_dump_json(exclude={"parameters"}) + "\n")
        written += 1
    return written


def write_csv(results: Iterator[RenderResult], stream: TextIO) -> int:
    """One row a result; several samples or warnings share a cell, one a line. Returns how many."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    written = 0
    for result in results:
        values = result.model_dump(exclude=set(NOT_IN_CSV))
        writer.writerow(["\n".join(v) if isinstance(v, tuple) else v for v in values.values()])
        written += 1
    return written
