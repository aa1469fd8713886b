"""How `producer keep` ends: SIGTERM with exit code 0, Ctrl-C as other commands."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer


class Terminated(BaseException):
    """SIGTERM arrived. Like KeyboardInterrupt it passes through `except Exception`."""


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Wrap a command's body, as early as possible: process 1 of a container ignores signals without a handler."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except Terminated as error:
        raise typer.Exit(0) from error


def hear_no_more() -> None:
    """The end has begun: another signal must not cut it short."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _terminate(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 (a handler's arguments)
    raise Terminated
