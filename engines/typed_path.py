"""Paths as people type them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer


def typed_path(text: str) -> Path:
    """The path that an option or argument names. Shells leave the ~ of `--out=~/sets` to the program.

    Raises:
        typer.BadParameter: the text is empty, which would be the current folder, or names a user who does not exist.
    """
    if not text:
        raise typer.BadParameter("the path is empty; perhaps a shell variable is not set")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise typer.BadParameter(f"{text}: no such user") from error


Set = Annotated[Path, typer.Argument(parser=typed_path, help="Folder of an engine set.", metavar="SET")]


def from_home(text: str) -> Path:
    """The path, with the home folder in place of a ~. A ~name that is no user stays as it is."""
    with suppress(RuntimeError):
        return Path(text).expanduser()
    return Path(text)
