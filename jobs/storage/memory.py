"""MemoryStore: a store for tests, in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from jobs.errors import SourceNotFound
from jobs.storage.file import Progress, output_file, source_file
from jobs.storage.part import Part


class MemoryStore:
    """A jobs.storage.store.Store as a dictionary, for any scheme. `order` lists the URIs as they were written."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.content_types: dict[str, str] = {}
        self.order: list[str] = []

    def write(self, uri: str, data: bytes, content_type: str) -> None:
        """Keep bytes."""
        self.objects[uri] = data
        self.content_types[uri] = content_type
        self.order.append(uri)

    def exists(self, uri: str) -> bool:
        """Whether a URI was written."""
        return uri in self.objects

    def read(self, uri: str) -> bytes:
        """What was written."""
        if uri not in self.objects:
            raise SourceNotFound(f"{uri} does not exist")
        return self.objects[uri]

    def read_part(self, uri: str, *, start: int, size: int) -> Part:
        """A part of what was written."""
        data = self.read(uri)
        return Part(data[start : start + size], len(data))

    def names(self, folder: str) -> Iterator[str]:
        """Names directly in the folder."""
        return iter({name + slash for name, slash, _ in (below.partition("/") for below in self.names_below(folder))})

    def names_below(self, folder: str) -> Iterator[str]:
        """Names of everything below the folder."""
        prefix = folder.rstrip("/") + "/"
        return iter([uri.removeprefix(prefix) for uri in self.objects if uri.startswith(prefix)])

    def sizes_below(self, folder: str) -> Iterator[tuple[str, int]]:
        """Names and bytes of everything below the folder."""
        prefix = folder.rstrip("/") + "/"
        return iter([(name, len(self.objects[prefix + name])) for name in self.names_below(folder)])

    def put_file(self, uri: str, path: Path, content_type: str, *, progress: Progress | None = None) -> str:
        """Keep a local file's bytes."""
        with source_file(path) as file:
            self.write(uri, file.read(), content_type)
        if progress is not None:
            progress(len(self.objects[uri]))
        return hashlib.sha256(self.objects[uri]).hexdigest()

    def get_file(self, uri: str, path: Path, *, progress: Progress | None = None) -> str:
        """Write what was kept to a local file."""
        data = self.read(uri)
        with output_file(path) as file:
            file.write(data)
        if progress is not None:
            progress(len(data))
        return hashlib.sha256(data).hexdigest()

    def delete(self, uri: str) -> None:
        """Forget what was written."""
        self.objects.pop(uri, None)

    def delete_empty(self, folder: str) -> None:
        """Do nothing: memory has no folders."""
