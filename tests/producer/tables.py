"""Writing CSVs for tests, and what the check says of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.settings import load_settings
from producer.submission import Outcome, Request
from producer.table.check import check
from producer.table.reader import Table, open_table

HEADER = "image,prompt"


def write(folder: Path, text: str | bytes, name: str = "jobs.csv") -> Path:
    """A CSV file; text is UTF-8, bytes are taken as they are."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@contextmanager
def table(folder: Path, text: str | bytes) -> Iterator[Table]:
    """A CSV, opened."""
    with write(folder, text).open("rb") as stream, open_table(stream) as opened:
        yield opened


def checked(folder: Path, text: str | bytes) -> Outcome:
    """What the check says of a CSV."""
    outcome = Outcome()
    good = list(check(Request.resolve(load_settings(), file=write(folder, text)), outcome))
    assert len(good) == outcome.good or outcome.unreadable
    return outcome


def sentences(folder: Path, text: str | bytes) -> list[str]:
    """Every problem of a CSV as people read it."""
    return [problem.sentence("jobs.csv") for problem in checked(folder, text).problems]
