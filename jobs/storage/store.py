"""Bytes in and out: file://, s3:// and, for reading, http(s)://."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from jobs.errors import InvalidJob, OutputForbidden, SourceNotFound
from jobs.storage import file as files
from jobs.storage.http import FetchLimits, fetch
from jobs.uri import path_of, redacted

# Sidecars and pictures of our own making; a limit all the same, for anything may stand in their place.
OWN_MAX_BYTES = 2**31


class Store(Protocol):
    """Where results go. A written URI is visible whole or not at all."""

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        """Store bytes. Raises OutputForbidden, OutputFull or OutputUnavailable."""

    def exists(self, uri: str) -> bool:
        """Whether a URI was written. Raises OutputForbidden or OutputUnavailable."""

    def read(self, uri: str) -> bytes:
        """What was written. Raises the Source errors."""

    def names(self, folder: str) -> Iterator[str]:
        """What lies directly in a folder, in no order; folders end with '/'. Nothing where there is no such folder.

        Raises the Output errors.
        """


class FileStore:
    """file:// URIs: see jobs.storage.file."""

    def write(self, uri: str, data: bytes, content_type: str) -> None:  # noqa: ARG002 (files have no content type)
        """Store bytes."""
        files.write(path_of(uri), data)

    def exists(self, uri: str) -> bool:
        """Whether the file is there."""
        return files.exists(path_of(uri))

    def read(self, uri: str) -> bytes:
        """The file's bytes."""
        return files.read(path_of(uri), OWN_MAX_BYTES)

    def names(self, folder: str) -> Iterator[str]:
        """What lies directly in the folder."""
        return files.names(path_of(folder))


class MemoryStore:
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

    def names(self, folder: str) -> Iterator[str]:
        """What lies directly in the folder."""
        prefix = folder.rstrip("/") + "/"
        rests = [uri.removeprefix(prefix) for uri in self.objects if uri.startswith(prefix)]
        return iter({name + slash for name, slash, _ in (rest.partition("/") for rest in rests)})


def store_for(uri: str) -> Store:
    """The writer for an output URI.

    Raises:
        OutputForbidden: a scheme that nothing can be written to.
    """
    scheme = uri.partition("://")[0]
    if scheme == "file":
        return FileStore()
    if scheme == "s3":
        from jobs.storage.s3 import S3Store  # here: boto3 is a third of what `producer submit` would import

        return S3Store(OWN_MAX_BYTES)
    raise OutputForbidden(
        f"results cannot be written to {redacted(uri)!r}; use a folder, file:// or s3://bucket/prefix"
    )


def read_bytes(uri: str, limits: FetchLimits) -> bytes:
    """The bytes behind an input URI. Where `limits.places` is None, any folder and bucket will do.

    Raises:
        SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as their names say.
    """
    scheme, places = uri.partition("://")[0], limits.places
    if scheme == "file":
        return files.read(path_of(uri) if places is None else places.source_path(uri), limits.max_bytes)
    if scheme == "s3":
        if places is not None:
            places.check_source_bucket(uri)
        from jobs.storage import s3

        return s3.read(uri, limits.max_bytes, timeout_seconds=limits.timeout_seconds)
    if scheme in ("http", "https"):
        return fetch(uri, limits)
    raise InvalidJob(f"{redacted(uri)!r} is no file://, s3:// or http(s):// URI")
