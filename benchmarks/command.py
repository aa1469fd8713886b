"""A benchmark as a command with Typer's options."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from engines.errors import EngineError
from tools.progress import say


def run(main: Callable[..., None], *, help: str, epilog: str) -> None:
    """Run a benchmark's `main` with the command line's options; an engine set that is refused ends it with a number."""
    app = typer.Typer(add_completion=False)
    app.command(help=help, epilog=epilog)(main)
    try:
        app()
    except EngineError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
