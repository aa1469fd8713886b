"""Sentences for people on stderr, coloured only on a terminal, and JSON for programs on stdout.

rich is imported in the functions that use it: importing it takes longer than a whole `--help` should.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from jobs.uri import path_of, redacted
from producer.output import json_wanted, takes_unicode, writing_stdout

if TYPE_CHECKING:
    from rich.console import Console

STYLES = {"error": "bold red", "warning": "yellow", "note": "", "good": "green"}
STATES = ("queued", "running", "done", "failed", "cancelled")  # in the order in which they are shown
SHOW_AFTER_SECONDS = 0.5  # a small file is finished before a person could read a bar
REDRAW_SECONDS = 0.1
SURROGATE = re.compile("[\ud800-\udfff]")


def people() -> Console:
    """A console on stderr."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, emoji=False)  # `:x:` in a prompt must not become a picture


def say(text: str, kind: str = "note", console: Console | None = None) -> None:
    """Print one sentence (or a few lines) to stderr; never wrapped, never read as markup."""
    (console or people()).print(printable(text), style=STYLES[kind], markup=False, soft_wrap=True)


def printable(text: str) -> str:
    """Replace control characters: a cell or a file name must not move the terminal's cursor."""
    return "".join(char if char.isprintable() or char == "\n" else "\N{REPLACEMENT CHARACTER}" for char in text)


def place(uri: str) -> str:
    """A URI for people: a local one as a path, any other without its secrets."""
    return printable(str(path_of(uri)) if uri.startswith("file:") else redacted(uri))


def write_json(record: Mapping[str, object]) -> None:
    """Print one JSON line to stdout, unless that is a terminal and --json was not given.

    A file name that is not UTF-8 has escaped surrogates, as Python reads them.
    """
    if json_wanted():
        text = json.dumps(record, ensure_ascii=not takes_unicode())
        with writing_stdout() as stdout:
            stdout.write(SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text) + "\n")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 row`, `2,000 rows`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


@contextmanager
def row_progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal. Yields a function to call with the number of rows done so far, as often as you like.

    Where stderr is not a terminal, the function does nothing.
    """
    console = people()
    if not console.is_terminal:
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn

    from producer.progress_times import Elapsed, Left

    spinner = SpinnerColumn("dots" if console.encoding.startswith("utf") else "line")
    columns = (spinner, TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn())
    progress = Progress(*columns, Elapsed(), Left(), console=console, transient=True)
    task = progress.add_task(what, total=total)
    redraw_at = time.monotonic() + SHOW_AFTER_SECONDS

    def tick(rows: int) -> None:
        nonlocal redraw_at
        if time.monotonic() < redraw_at:
            return
        redraw_at = time.monotonic() + REDRAW_SECONDS
        progress.start()
        progress.update(task, completed=rows)

    try:
        yield tick
    finally:
        if progress.live.is_started:
            progress.stop()
