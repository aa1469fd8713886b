"""file://: reading what jobs name, and writing so that a file is visible whole or not at all.

A file is written beside its target, in the hidden folder `.part`, flushed to disk and renamed. What a kill -9 leaves
there is swept by the next write into the same folder, once it is old.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from jobs.errors import (
    OutputForbidden,
    OutputFull,
    OutputUnavailable,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
)

PARTS = ".part"
# When it was begun stands in its name: no clock of a file server's, and no look at each file.
_PART = re.compile(r"(\d{10})-[0-9a-f]{16}\.part")
ABANDONED_SECONDS = 3600.0  # no write takes so long; clocks of machines that share a folder differ by less

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.EINVAL})
_NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP})
_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})


def read(path: Path, max_bytes: int) -> bytes:
    """The bytes of a regular file.

    Raises:
        SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as their names say.
    """
    try:
        # Without O_NONBLOCK, opening a pipe that nobody writes to would never return.
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceForbidden(f"{path} is not a regular file")  # a device could be read for ever
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:
        raise _source_error(path, error) from error
    if len(data) > max_bytes:
        raise SourceTooLarge(f"{path} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)")
    return data


def exists(path: Path) -> bool:
    """Whether a regular file is there.

    Raises:
        OutputForbidden, OutputUnavailable: it cannot be known.
    """
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _MISSING:
            return False
        raise _output_error(path, error) from error


def names(folder: Path) -> Iterator[str]:
    """Names in a folder, one at a time; folders end with '/'. Nothing where there is no such folder.

    Raises:
        OutputForbidden, OutputUnavailable: it cannot be read.
    """
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name + ("/" if entry.is_dir() else "")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in _MISSING:
            return
        raise _output_error(folder, error) from error


def write(path: Path, data: bytes) -> None:
    """Store bytes, replacing what is there.

    Raises:
        OutputForbidden, OutputFull, OutputUnavailable: as their names say; nothing has changed then.
    """
    try:
        parts = path.parent / PARTS
        parts.mkdir(parents=True, exist_ok=True)
        _sweep(parts)
        _write_whole(path, data, parts / f"{int(time.time()):010d}-{secrets.token_hex(8)}.part")
    except (OSError, ValueError) as error:
        raise _output_error(path, error) from error


def _write_whole(path: Path, data: bytes, part: Path) -> None:
    try:
        with part.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """After a power cut the ledger, on another machine, would know a result whose name was never written down here."""
    with contextlib.suppress(OSError):  # some network file systems know no such thing
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(parts: Path) -> None:
    oldest = time.time() - ABANDONED_SECONDS
    with contextlib.suppress(OSError), os.scandir(parts) as entries:  # tidiness must not fail a write
        for entry in entries:
            match = _PART.fullmatch(entry.name)
            if match is not None and int(match[1]) < oldest:
                Path(entry.path).unlink()


def _source_error(path: Path, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno in _MISSING:
        return SourceNotFound(f"{path} does not exist (on the machine of the worker that was asked to read it)")
    if isinstance(error, PermissionError):
        return SourceForbidden(f"{path} may not be read: permission denied")
    if isinstance(error, OSError) and error.errno in (errno.EISDIR, errno.ELOOP, errno.ENXIO):
        return SourceForbidden(f"{path} is not a regular file")
    if isinstance(error, ValueError):
        return SourceForbidden(f"{str(path)!r} is not a usable path")
    return SourceUnavailable(f"{path} could not be read: {error}")


def _output_error(path: Path, error: Exception) -> OutputForbidden | OutputFull | OutputUnavailable:
    if not isinstance(error, OSError):
        return OutputForbidden(f"{str(path)!r} is not a usable path")
    if error.errno in _FULL:
        return OutputFull(f"{path} cannot be written: no space left")
    if error.errno in _DENIED | _NOT_A_FOLDER:
        return OutputForbidden(f"{path} may not be written: {error.strerror}")
    return OutputUnavailable(f"{path} could not be written: {error.strerror}")
