"""Where a command's JSON goes, and what becomes of characters that a terminal or a pipe cannot take.

JSON is for programs: it goes to stdout where that is no terminal, and to a terminal only with --json.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_ASKED: ContextVar[bool] = ContextVar("json_asked", default=False)


@contextmanager
def json_output(asked: bool) -> Iterator[None]:
    """Around a command's body: whether its --json was given."""
    token = _ASKED.set(asked)
    try:
        yield
    finally:
        _ASKED.reset(token)


def json_asked() -> bool:
    """Whether --json was given."""
    return _ASKED.get()


def json_wanted() -> bool:
    """Whether to print JSON to stdout."""
    return _ASKED.get() or not to_terminal()


def to_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


def takes_unicode() -> bool:
    """Whether stdout can hold every character."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def escape_what_does_not_fit() -> None:
    """From here on, print characters that the output's encoding lacks as `\\xe9` instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
