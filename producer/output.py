"""Where a command's JSON goes, and what becomes of characters that a terminal or a pipe cannot take.

JSON is for programs: it goes to stdout if that is not a terminal, and to a terminal only with --json.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import TextIO

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
    """Whether to print JSON to stdout. False if stdout was closed before the command began."""
    return sys.stdout is not None and (_ASKED.get() or not to_terminal())


def to_terminal() -> bool:
    """Whether a person reads stdout."""
    return sys.stdout is not None and sys.stdout.isatty()


@contextmanager
def writing_stdout() -> Iterator[TextIO]:
    """Standard output, for what the block writes; written out at its end.

    Raises:
        OSError: it cannot be written, and is named as if it were a file.
    """
    try:
        yield sys.stdout
        sys.stdout.flush()
    except OSError as error:
        if error.filename is not None or isinstance(error, BrokenPipeError):
            raise
        raise OSError(error.errno, error.strerror, "standard output") from error


def give_up_broken_streams() -> None:
    """Forget what cannot be written any more, so that Python does not fail with it once more when it ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            with suppress(OSError, ValueError), Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def open_closed_stderr() -> None:
    """Let sentences go nowhere where stderr was closed before the command began."""
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the end)


def takes_unicode() -> bool:
    """Whether stdout can hold every character."""
    return (getattr(sys.stdout, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def escape_what_does_not_fit() -> None:
    """From here on, print characters that the output's encoding lacks as `\\xe9` instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
