"""Looking for the local pictures of a table's first rows, on the machine that submits them."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from jobs.job import PICTURES, RenderParameters
from jobs.uri import path_of
from producer.table.problem import Problem

# Looking for each of a million files on a network drive takes longer than rendering some of them.
LOOKED_FOR = 1000
LONGEST_SHOWN = 120  # characters of a path, whose end says most

# Errors that every worker would meet, too. All others (a network drive that is away) say nothing of the row.
_UNUSABLE = {
    errno.ENAMETOOLONG: "is too long a path for this file system; shorten it",
    errno.ELOOP: "is a link that leads back to itself; name the picture itself",
    errno.EACCES: "lies in a folder that you may not search on this machine; permit that, or name another place",
    errno.EPERM: "may not be looked for on this machine: permission denied",
    errno.ENOTDIR: "is not a path: a part of it is a file, and not a folder",
}


class LocalPictures:
    """Counts pictures that are not on this machine, where a worker may still find them. Others it refuses."""

    def __init__(self) -> None:
        self.absent = 0
        self.first_absent: tuple[int, str] | None = None  # line and path
        self.first_place: str | None = None  # what stands for that line, as Problem.place does

    def look_for(self, parameters: RenderParameters, *, line: int, place: str | None = None) -> Problem | None:
        """Look for one row's pictures; a problem if what the row names cannot be a picture."""
        problems = (self._look_for(parameters, column, line, place) for column in PICTURES)
        return next(filter(None, problems), None)

    def _look_for(self, parameters: RenderParameters, column: str, line: int, place: str | None) -> Problem | None:
        uri = getattr(parameters, column)
        if uri is None or not uri.startswith("file:"):
            return None
        path = path_of(uri)
        try:
            mode = path.stat().st_mode
        except (OSError, ValueError) as error:
            reason = _UNUSABLE.get(error.errno or 0) if isinstance(error, OSError) else "is not a usable path"
            if reason is not None:
                return Problem(line, column, None, f"{_shown(path)} {reason}")
            self.absent += 1
            if self.first_absent is None:
                self.first_absent, self.first_place = (line, str(path)), place
            return None
        if stat.S_ISREG(mode):
            return None
        what = "a folder" if stat.S_ISDIR(mode) else "not a regular file"
        return Problem(line, column, None, f"{_shown(path)} is {what}; name a picture")


def is_here(image: str) -> bool:
    """Whether a file:// URI names a regular file on this machine."""
    return image.startswith("file:") and os.path.isfile(path_of(image))  # noqa: PTH113 (it takes any name)


def _shown(path: Path) -> str:
    text = str(path)
    return repr(text if len(text) <= LONGEST_SHOWN else "…" + text[1 - LONGEST_SHOWN :])
