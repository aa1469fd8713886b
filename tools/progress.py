"""Tell the person at the terminal how far a program is; stdout is left for results."""

from __future__ import annotations

import sys


def say(text: str) -> None:
    """Print one line on stderr."""
    print(text, file=sys.stderr, flush=True)
