"""Asking a person before something is deleted for good."""

from __future__ import annotations

import sys

from producer.console import printable
from producer.exits import CommandFailed, Exit

YES = ("y", "yes")


def confirm(question: str, *, word: str | None = None, what: str = "its name") -> None:
    """Ask on the terminal. With a `word`, ask once more: then the word, which is `what`, must be typed.

    Raises:
        CommandFailed: the person says anything else, or stdin is not a terminal.
    """
    if not _can_ask():
        raise CommandFailed(
            Exit.USAGE,
            f"{question} Input is not a terminal, so the command cannot ask: add --yes. Nothing was deleted.",
        )
    is_meant = _answer(f"{question} [y/N] ").lower() in YES
    if is_meant and word is not None:
        is_meant = _answer(f"There is no way back. Type {what} ({word}) to delete: ") == word
    if not is_meant:
        raise CommandFailed(Exit.USAGE, "Nothing was deleted.")


def _can_ask() -> bool:
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def _answer(question: str) -> str:
    """A line from the terminal; '' at its end (Ctrl-D). The question goes to stderr: stdout is for JSON."""
    sys.stderr.write(printable(question))
    sys.stderr.flush()
    line = sys.stdin.readline()
    if not line.endswith("\n"):
        sys.stderr.write("\n")
    return line.strip()
