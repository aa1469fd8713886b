"""What people read: sentences on stderr, coloured only on a terminal. Results for programs go to stdout as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jobs.uri import path_of, redacted

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"error": "bold red", "warning": "yellow", "note": "", "good": "green"}


def people() -> Console:
    """A console on stderr. Made on demand: importing rich costs more than a whole --help may take."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str, kind: str = "note", console: Console | None = None) -> None:
    """One sentence (or a few lines) to stderr; never wrapped, never read as markup."""
    (console or people()).print(printable(text), style=STYLES[kind], markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """Without control characters: a cell or a file name must not move the cursor of somebody's terminal."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def place(uri: str) -> str:
    """A URI as people like to read it: a local one as a path, others without secrets."""
    return printable(str(path_of(uri)) if uri.startswith("file:") else redacted(uri))


def write_json(record: Mapping[str, object]) -> None:
    """One JSON line to stdout."""
    sys.stdout.write(json.dumps(record, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"
