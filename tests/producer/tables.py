"""Writing CSVs for tests, and what the check says of them."""

from __future__ import annotations

from pathlib import Path

from producer.table.check import Checked, Source, check

HEADER = "image,prompt"


def write(folder: Path, text: str | bytes, name: str = "jobs.csv") -> Source:
    """A CSV file as a source; text is UTF-8, bytes are taken as they are."""
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Source(path, name, folder)


def checked(folder: Path, text: str | bytes) -> Checked:
    """What the first pass finds in a CSV."""
    return check(write(folder, text))


def sentences(folder: Path, text: str | bytes) -> list[str]:
    """Every problem of a CSV as people read it."""
    return [problem.sentence("jobs.csv") for problem in checked(folder, text).problems]
