"""Stores behind URIs: file://, s3:// and, for reading only, http(s)://."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from jobs.errors import InvalidJob, OutputForbidden
from jobs.storage.file import FileStore, Progress
from jobs.storage.http import HttpStore
from jobs.storage.limits import OWN_LIMITS, OWN_MAX_BYTES, FetchLimits
from jobs.storage.part import Part
from jobs.uri import redacted

__all__ = ["OWN_MAX_BYTES", "Progress", "Source", "Store", "read_bytes", "source_for", "store_for"]


class Source(Protocol):
    """A store that can be read. The FetchLimits that it was created with say how much, how long and from where."""

    def read(self, uri: str) -> bytes:
        """All bytes behind a URI.

        Raises:
            SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as their names say.
        """

    def read_part(self, uri: str, *, start: int, size: int) -> Part:
        """At most `size` (1 or more) bytes from `start` on; fewer only at the file's end.

        Raises:
            SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable: as for `read`, which a whole file that
                has too many bytes would fail, too.
        """


class Store(Source, Protocol):
    """A store that can also be written. A written URI is visible whole or not at all.

    Retrying is the caller's: wrap a call in jobs.storage.retry.with_backoff.
    """

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        """Store bytes, replacing what is there.

        Raises:
            OutputForbidden, OutputFull, OutputUnavailable: as their names say. Nothing has changed then, unless the
                store itself spoils what it is sent.
        """

    def exists(self, uri: str) -> bool | None:
        """Whether a URI was written; None if that is not known, because the caller may not look.

        S3 answers 403, not 404, for an object that does not exist if the keys lack s3:ListBucket.

        Raises:
            OutputForbidden, OutputUnavailable: the store cannot say.
        """

    def names(self, folder: str) -> Iterator[str]:
        """Names directly in a folder, one at a time, in no order; folders end with '/'. None where there is no folder.

        Raises:
            OutputForbidden, OutputUnavailable: the store cannot say.
        """

    def names_below(self, folder: str) -> Iterator[str]:
        """Names of all files below a folder, relative to it ('a/b.png'), one at a time, in no order.

        Raises:
            OutputForbidden, OutputUnavailable: the store cannot say.
        """

    def sizes_below(self, folder: str) -> Iterator[tuple[str, int]]:
        """As `names_below`, each name with the bytes of its file.

        Raises:
            OutputForbidden, OutputUnavailable: the store cannot say.
        """

    def put_file(self, uri: str, path: Path, content_type: str, *, progress: Progress | None = None) -> str:
        """Store a local file of any size and return its SHA-256 as hex. Memory stays flat.

        `progress` is called with the bytes read so far; a second try begins again at 0. What it raises ends the upload.

        Raises:
            SourceNotFound, SourceForbidden, SourceUnavailable: the local file cannot be read.
            OutputForbidden, OutputFull, OutputUnavailable: it cannot be stored. Nothing has changed then.
        """

    def get_file(self, uri: str, path: Path, *, progress: Progress | None = None) -> str:
        """Write what is behind a URI to a local file and return its SHA-256 as hex. Memory stays flat.

        The file appears whole or not at all, and replaces what was there. No limit of bytes or time applies.
        `progress` is called with the bytes received so far. What it raises ends the download.

        Raises:
            SourceNotFound, SourceForbidden, SourceUnavailable: the URI cannot be read.
            OutputForbidden, OutputFull, OutputUnavailable: the local file cannot be written.
        """

    def delete(self, uri: str) -> None:
        """Remove what was written to a URI, if anything was.

        Raises:
            OutputForbidden, OutputUnavailable: it cannot be removed.
        """

    def delete_empty(self, folder: str) -> None:
        """Remove what writes that were killed left in a folder, and then the folder itself, if nothing else is in it.

        A folder that may not be removed (it is mounted, or we lack the right) stays without an error.

        Raises:
            OutputForbidden, OutputUnavailable: what is in it cannot be removed.
        """


def store_for(uri: str) -> Store:
    """The store for an output URI.

    Raises:
        OutputForbidden: a scheme that cannot be written.
    """
    scheme = uri.partition("://")[0]
    if scheme == "file":
        return FileStore()
    if scheme == "s3":
        return _s3_store(OWN_LIMITS)
    raise OutputForbidden(
        f"results cannot be written to {redacted(uri)!r}; use a folder, file:// or s3://bucket/prefix", fault="job"
    )


def source_for(uri: str, limits: FetchLimits) -> Source:
    """The store for an input URI.

    Raises:
        InvalidJob: a scheme that cannot be read.
    """
    scheme = uri.partition("://")[0]
    if scheme == "file":
        return FileStore(limits)
    if scheme == "s3":
        return _s3_store(limits)
    if scheme in ("http", "https"):
        return HttpStore(limits)
    raise InvalidJob(f"{redacted(uri)!r} is not a file://, s3:// or http(s):// URI")


def read_bytes(uri: str, limits: FetchLimits) -> bytes:
    """The bytes behind an input URI.

    Raises:
        SourceNotFound, SourceForbidden, SourceTooLarge, SourceUnavailable, NotAnImage, InvalidJob: as their names say.
    """
    return source_for(uri, limits).read(uri)


def _s3_store(limits: FetchLimits) -> Store:
    from jobs.storage.s3 import S3Store  # here: boto3 is a third of what `producer submit` would import

    return S3Store(limits)
