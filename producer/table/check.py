"""The first pass: read every row, count every mistake, enqueue nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from jobs.job import RenderParameters
from jobs.uri import path_of
from producer.table.problems import CsvMistakes, Problem
from producer.table.reader import Record, open_table
from producer.table.rejected import RejectedRows
from producer.table.rows import RowChecker

SHOWN_PROBLEMS = 20
# Looking for every one of a million files on a network drive takes longer than rendering some of them.
LOOKED_FOR = 1000
TICK_ROWS = 1000


@dataclass(frozen=True)
class Source:
    """Where the rows come from: the file that is read, what people call it, and where relative paths start."""

    path: Path
    name: str
    base: Path


@dataclass
class Checked:
    """What the first pass found. `problems` holds the first few, `problem_count` counts all."""

    rows: int = 0
    rejected: int = 0
    problem_count: int = 0
    problems: list[Problem] = field(default_factory=list)
    unreadable: bool = False  # the file as a whole: nothing can be skipped
    remarks: tuple[str, ...] = ()
    absent: int = 0  # local pictures that are not on this machine, among the first LOOKED_FOR rows
    first_absent: tuple[int, str] | None = None  # line and path

    def note(self, problems: list[Problem]) -> None:
        """Count problems and keep the first few: memory stays flat whatever the file."""
        self.problem_count += len(problems)
        self.problems += problems[: SHOWN_PROBLEMS - len(self.problems)]

    @property
    def good(self) -> int:
        """Rows that can be rendered."""
        return self.rows - self.rejected


def check(source: Source, *, rejected_to: Path | None = None, tick: Callable[[int], object] | None = None) -> Checked:
    """Read and check every row; rejected ones are written to `rejected_to`. `tick` hears the row count now and then.

    Raises:
        OSError: the file cannot be read, or the rejected rows cannot be written.
    """
    checked = Checked()
    with RejectedRows(rejected_to) as rejected:
        try:
            with open_table(source.path) as table:
                checked.remarks = table.remarks
                rejected.columns = table.columns
                checker = RowChecker(table.columns, source.base)
                for record in table.records:
                    _enter(record, checker.check(record), checked, rejected)
                    if tick is not None and checked.rows % TICK_ROWS == 0:
                        tick(checked.rows)
        except CsvMistakes as mistakes:
            checked.unreadable = True
            checked.note(list(mistakes.problems))
            rejected.discard()
    return checked


def _enter(record: Record, found: RenderParameters | list[Problem], checked: Checked, rejected: RejectedRows) -> None:
    checked.rows += 1
    if isinstance(found, list):
        checked.rejected += 1
        checked.note(found)
        rejected.add(record, found)
    elif checked.rows <= LOOKED_FOR:
        _look_for(record, found, checked)


def _look_for(record: Record, parameters: RenderParameters, checked: Checked) -> None:
    if not parameters.image.startswith("file:"):
        return
    path = path_of(parameters.image)
    if not path.exists():
        checked.absent += 1
        checked.first_absent = checked.first_absent or (record.line, str(path))
