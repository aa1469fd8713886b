"""The rows that --skip-invalid leaves out, with the reason: `jobs.csv` -> `jobs.rejected.csv`."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from producer.table.problems import Problem
from producer.table.reader import Record


class RejectedRows:
    """Writes rejected rows to a file that appears, whole, only when there are some. Without a path, to nowhere."""

    def __init__(self, path: Path | None) -> None:
        self.columns: Sequence[str] = ()
        self._path = path
        self._writer: Any = None  # opened with the first row: a read-only folder matters only then
        self._stack = ExitStack()

    def add(self, record: Record, problems: Sequence[Problem]) -> None:
        """Line and reason stand first, so that a row with too many cells still fits behind them."""
        if self._path is None:
            return
        if self._writer is None:
            file = self._temporary(self._path).open("w", encoding="utf-8", newline="")
            self._writer = csv.writer(self._stack.enter_context(file))
            self._writer.writerow(["line", "reason", *self.columns])
        self._writer.writerow([record.line, "; ".join(problem.reason() for problem in problems), *record.cells])

    def discard(self) -> None:
        """Leave no file: the rows were not all read."""
        self._stack.close()
        if self._path is not None:
            self._temporary(self._path).unlink(missing_ok=True)
        self._path = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is not None:
            self.discard()
        self._stack.close()
        if self._path is not None and self._writer is not None:
            self._temporary(self._path).replace(self._path)

    @staticmethod
    def _temporary(path: Path) -> Path:
        return path.with_name(f".{path.name}.part")


def rejected_path(csv_path: Path) -> Path:
    """Beside the CSV."""
    return csv_path.with_name(f"{csv_path.stem}.rejected.csv")
