"""A path as people type it."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import typer


def typed_path(text: str) -> Path:
    """The path of an option. Shells leave the ~ of `--out=~/sets` to the program.

    Raises:
        typer.BadParameter: the text is empty, which would be the current folder, or names a user who does not exist.
    """
    if not text:
        raise typer.BadParameter("the path is empty, as a shell's variable that is not set makes it")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"{text}: no such user") from error


def from_home(text: str) -> Path:
    """The same path with the home folder for a ~, which stays where there is no such user."""
    with suppress(RuntimeError):
        return Path(text).expanduser()
    return Path(text)
