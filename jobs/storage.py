"""Bytes in and out: file://, s3:// and, for reading, http(s)://."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from typing import Protocol

from jobs import s3
from jobs.errors import (
    InvalidJob,
    OutputForbidden,
    OutputFull,
    OutputUnavailable,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
    SourceUnavailable,
)
from jobs.fetch import FetchLimits, fetch
from jobs.uri import path_of, redacted

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG})
_NOT_A_FOLDER = frozenset({errno.ENOTDIR, errno.EISDIR, errno.EEXIST})


class Writer(Protocol):
    """Where results go. A written URI is visible whole or not at all."""

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        """Store bytes. Raises OutputForbidden, OutputFull or OutputUnavailable."""

    def exists(self, uri: str) -> bool:
        """Whether a URI was written. Raises OutputForbidden or OutputUnavailable."""

    def read(self, uri: str) -> bytes:
        """What was written. Raises the Source errors."""


class FileWriter:
    """file:// URIs: a temporary file beside the target, flushed to disk, then renamed over it."""

    def write(self, uri: str, data: bytes, content_type: str) -> None:  # noqa: ARG002 (files have no content type)
        """Store bytes."""
        path = path_of(uri)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _write_whole(path, data)
        except OSError as error:
            raise _output_error(path, error) from error

    def exists(self, uri: str) -> bool:
        """Whether the file is there."""
        return path_of(uri).is_file()

    def read(self, uri: str) -> bytes:
        """The file's bytes."""
        return _read_file(uri, max_bytes=2**31)


class S3Writer:
    """s3:// URIs: one PUT an object."""

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        """Store bytes."""
        s3.write(uri, data, content_type)

    def exists(self, uri: str) -> bool:
        """Whether the object is there."""
        return s3.exists(uri)

    def read(self, uri: str) -> bytes:
        """The object's bytes."""
        return s3.read(uri, max_bytes=2**31)


class MemoryWriter:
    """The fake: a dictionary; `order` lists the URIs as they were written."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.order: list[str] = []

    def write(self, uri: str, data: bytes, content_type: str) -> None:  # noqa: ARG002 (nobody asks the fake for it)
        """Keep bytes."""
        self.objects[uri] = data
        self.order.append(uri)

    def exists(self, uri: str) -> bool:
        """Whether a URI was written."""
        return uri in self.objects

    def read(self, uri: str) -> bytes:
        """What was written."""
        if uri not in self.objects:
            raise SourceNotFound(f"{uri} does not exist")
        return self.objects[uri]


def writer_for(uri: str) -> Writer:
    """The writer for an output URI.

    Raises:
        OutputForbidden: a scheme that nothing can be written to.
    """
    scheme = uri.partition("://")[0]
    if scheme == "file":
        return FileWriter()
    if scheme == "s3":
        return S3Writer()
    raise OutputForbidden(
        f"results cannot be written to {redacted(uri)!r}; use a folder, file:// or s3://bucket/prefix"
    )


def read_bytes(uri: str, limits: FetchLimits) -> bytes:
    """The bytes behind an input URI.

    Raises:
        SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as their names say.
    """
    scheme = uri.partition("://")[0]
    if scheme == "file":
        return _read_file(uri, limits.max_bytes)
    if scheme == "s3":
        return s3.read(uri, limits.max_bytes)
    if scheme in ("http", "https"):
        return fetch(uri, limits)
    raise InvalidJob(f"{redacted(uri)!r} is no file://, s3:// or http(s):// URI")


def _read_file(uri: str, max_bytes: int) -> bytes:
    path = path_of(uri)
    try:
        if not path.is_file() and path.exists():
            raise SourceForbidden(f"{path} is not a regular file")  # a pipe or a device could be read for ever
        with path.open("rb") as file:
            data = file.read(max_bytes + 1)
    except FileNotFoundError as error:
        raise SourceNotFound(
            f"{path} does not exist (on the machine of the worker that was asked to read it)"
        ) from error
    except PermissionError as error:
        raise SourceForbidden(f"{path} may not be read: permission denied") from error
    except (OSError, ValueError) as error:
        raise SourceUnavailable(f"{path} could not be read: {error}") from error
    if len(data) > max_bytes:
        raise SourceTooLarge(f"{path} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)")
    return data


def _write_whole(path: Path, data: bytes) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            os.fchmod(file.fileno(), 0o644)  # mkstemp's 0600 would hide results from everybody else
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _output_error(path: Path, error: OSError) -> OutputForbidden | OutputFull | OutputUnavailable:
    if error.errno in _FULL:
        return OutputFull(f"{path} cannot be written: no space left")
    if error.errno in _DENIED | _NOT_A_FOLDER:
        return OutputForbidden(f"{path} may not be written: {error.strerror}")
    return OutputUnavailable(f"{path} could not be written: {error.strerror}")
