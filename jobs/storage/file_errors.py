"""The errors that files end in: whose fault, and a sentence that says what to do.

An error number that is not named here may pass (a network file system that is away, a disk that errs), so it counts as
the store's, whose tries have no limit.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jobs.errors import (
    Fault,
    OutputForbidden,
    OutputFull,
    OutputUnavailable,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
)
from jobs.storage.mounts import is_shared

_MISSING = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_MAY_NOT = frozenset({errno.EACCES, errno.EPERM})
_NO_FILE = frozenset({errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ENODEV})
_NO_NAME = frozenset({errno.EILSEQ, errno.EINVAL})  # letters that this file system cannot store
# The keys of an encrypted folder, and the tickets of a network file system: this machine's, and they may be renewed.
_KEYS = frozenset({errno.ENOKEY, errno.EKEYEXPIRED, errno.EKEYREVOKED, errno.EKEYREJECTED})
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ELOOP})
_NOT_BUILT = frozenset({errno.ENOSYS, errno.EOPNOTSUPP})
_REFUSED = _MAY_NOT | _NOT_A_FOLDER | _NO_NAME | _NOT_BUILT | {errno.ENAMETOOLONG}


def is_missing(error: Exception) -> bool:
    """Whether there is no such file."""
    return isinstance(error, OSError) and error.errno in _MISSING


def may_not_look(error: Exception) -> bool:
    """Whether this process may not know whether there is such a file."""
    return isinstance(error, OSError) and error.errno in _MAY_NOT


def source_error(path: str | Path, error: Exception) -> RenderError:
    """Our error for an OSError or a ValueError while reading."""
    if not isinstance(error, OSError):
        return SourceForbidden(f"{str(path)!r} is not a usable path")
    if is_missing(error):
        # Another worker may have the file: a share that one machine has not mounted must not fail a batch.
        fault: Fault = "job" if error.errno == errno.ENAMETOOLONG else "worker"
        return SourceNotFound(
            f"{path} does not exist (on the machine of the worker that was asked to read it)", fault=fault
        )
    if may_not_look(error):
        return SourceForbidden(f"{path} may not be read: permission denied", fault="worker")
    if error.errno in _NO_FILE:
        return SourceForbidden(f"{path} is not a regular file")
    if error.errno in _NO_NAME:
        return SourceForbidden(f"{path} may not be read: {error.strerror}")
    if error.errno in _KEYS:
        return SourceForbidden(f"{path} may not be read: {_keys(error)}", fault="worker", unfit=True)
    return SourceUnavailable(f"{path} could not be read: {error.strerror or error}", fault="store")


@contextmanager
def output_errors(path: str | Path, *, done: str = "written") -> Iterator[None]:
    """Raise what `output_error` gives."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise output_error(path, error, done=done) from error


def output_error(path: str | Path, error: Exception, *, done: str = "written") -> RenderError:
    """For an OSError or a ValueError that came while doing anything else: 'may not be `done`'."""
    if not isinstance(error, OSError):
        return OutputForbidden(f"{str(path)!r} is not a usable path", fault="job")
    if error.errno in _FULL:
        return _full(path, error, done=done)
    if error.errno == errno.EFBIG:
        # Smaller files still fit, so the worker is fit.
        return OutputFull(f"{path} cannot be {done}: no file here may be so large (check the worker's ulimit -f)")
    if error.errno == errno.EROFS:
        return OutputForbidden(f"{path} may not be {done}: its file system is read-only here", unfit=True)
    if error.errno in _KEYS:
        return OutputForbidden(f"{path} may not be {done}: {_keys(error)}", unfit=True)
    if error.errno in _REFUSED:
        return OutputForbidden(f"{path} may not be {done}: {error.strerror}")
    return OutputUnavailable(f"{path} could not be {done}: {error.strerror or error}")


def _full(path: str | Path, error: OSError, *, done: str) -> OutputFull:
    reason = "no space left" if error.errno == errno.ENOSPC else "no space left (the quota is used up)"
    if is_shared(Path(path)):  # by all workers, so no other worker has more room
        return OutputFull(f"{path} cannot be {done}: {reason} on the file server", fault="store")
    return OutputFull(f"{path} cannot be {done}: {reason}", unfit=True)


def _keys(error: OSError) -> str:
    return f"this machine's key or ticket for it is missing or has expired ({error.strerror})"
