"""The folder or bucket that sets are pushed to and pulled from: the engines' one door to the storage of jobs/.

Every request is tried several times. If it still fails, it raises StoreRefused, which is never the fault of a set.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from engines.errors import DiskRefused, EngineSetRefused, StoreRefused
from engines.store.layout import is_digest
from jobs.errors import (
    InvalidJob,
    OutputForbidden,
    OutputFull,
    OutputUnavailable,
    RenderError,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
    TransientError,
)
from jobs.storage.retry import MAX_PAUSE_SECONDS, with_backoff
from jobs.storage.store import Progress, Store, store_for
from jobs.uri import path_of, redacted, resolve_uri

__all__ = ["Bucket", "Progress", "why_no_root"]

Value = TypeVar("Value")

TRIES = 5
BASE_SECONDS = 0.5  # of the first pause: with four pauses, a store may be away for some eight seconds
CONTENT_TYPES = {".json": "application/json"}
ANY_CONTENT = "application/octet-stream"


def why_no_root(text: str) -> str | None:
    """Why `text` names no folder or bucket to keep sets in, as a sentence; None if it names one."""
    try:
        uri = resolve_uri(text, Path.cwd(), for_output=True)
        store_for(uri)
    except (InvalidJob, OutputForbidden) as error:
        return str(error).replace("results cannot be written to", "sets cannot be kept in")
    except OSError as error:  # the working folder was removed
        return str(error.strerror)
    return None


class Bucket:
    """One root with the sets below it. Names are relative to it, with '/' between their parts."""

    def __init__(self, root: str) -> None:
        """`root`: a path, file:// or s3://bucket/prefix, for which `why_no_root` is None."""
        self._root = resolve_uri(root, Path.cwd(), for_output=True).rstrip("/")
        self._store: Store = store_for(self._root)

    @property
    def shown(self) -> str:
        """The root for people."""
        return self._shown(self._root)

    @property
    def weights(self) -> str | None:
        """The digest of the weights that the root is named for; None if its name is not a digest."""
        name = self._root.rpartition("/")[2]
        return name if is_digest(name) else None

    def uri(self, name: str) -> str:
        """The URI of a name."""
        if not name:
            return self._root
        return f"{self._root}/{quote(name) if self._root.startswith('file:') else name}"

    def place(self, name: str) -> str:
        """A name for people: with the root, and without secrets."""
        return self._shown(self.uri(name))

    def folders(self, name: str) -> list[str]:
        """The names of the folders directly in a folder; empty if the folder does not exist."""
        with self._refused():
            found = self._tried(lambda: list(self._store.names(self.uri(name))))
        return sorted(each.rstrip("/") for each in found if each.endswith("/"))

    def sizes(self, name: str) -> dict[str, int]:
        """The files below a folder, by their names in it: their bytes."""
        with self._refused():
            return self._tried(lambda: dict(self._store.sizes_below(self.uri(name))))

    def read(self, name: str) -> bytes | None:
        """A small file; None if it does not exist."""
        with self._refused():
            try:
                return self._tried(lambda: self._store.read(self.uri(name)))
            except SourceNotFound:
                return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file, whole or not at all."""
        with self._refused():
            self._tried(lambda: self._store.write(self.uri(name), data, _content_type(name)))

    def send(self, name: str, path: Path, progress: Progress) -> str:
        """Store a local file; returns the SHA-256 of what was sent.

        Raises:
            EngineSetRefused: the local file cannot be read.
        """
        with self._refused():
            try:
                return self._tried(
                    lambda: self._store.put_file(self.uri(name), path, _content_type(name), progress=progress)
                )
            except (SourceNotFound, SourceForbidden, SourceUnavailable) as error:
                raise EngineSetRefused(str(error)) from error

    def fetch(self, name: str, path: Path, progress: Progress) -> str:
        """Write a file to a local path, whole or not at all; returns the SHA-256 of what was received.

        Raises:
            DiskRefused: the local file cannot be written.
        """
        with self._refused():
            try:
                return self._tried(lambda: self._store.get_file(self.uri(name), path, progress=progress))
            except (OutputForbidden, OutputFull, OutputUnavailable) as error:
                raise DiskRefused(str(error)) from error

    def sha256(self, name: str, progress: Progress) -> str:
        """The SHA-256 of a file, which is fetched to hash it."""
        with tempfile.TemporaryDirectory(prefix="engine-set-") as folder:
            return self.fetch(name, Path(folder) / "file", progress)

    def delete(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._refused():
            self._tried(lambda: self._store.delete(self.uri(name)))

    def _tried(self, call: Callable[[], Value]) -> Value:
        return with_backoff(call, attempts=TRIES, base_seconds=BASE_SECONDS)

    @contextmanager
    def _refused(self) -> Iterator[None]:
        try:
            yield
        except TransientError as error:
            asked = error.retry_after_seconds or 0.0
            tried = f"it asks to wait {asked:g} s" if asked > MAX_PAUSE_SECONDS else f"tried {TRIES} times"
            raise StoreRefused(f"{error} ({tried})") from error
        except RenderError as error:
            raise StoreRefused(str(error)) from error

    @staticmethod
    def _shown(uri: str) -> str:
        return str(path_of(uri)) if uri.startswith("file:") else redacted(uri)


def _content_type(name: str) -> str:
    return CONTENT_TYPES.get(Path(name).suffix, ANY_CONTENT)
