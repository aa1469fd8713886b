"""Whether a set's files are those that its manifest lists: every byte is hashed before any of them is used."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from engines.errors import EngineSetRefused
from engines.files import file_sha256
from engines.manifest import load_manifest


class FileCheck:
    """Hashes a set's files in threads of its own as soon as it is created; the process may import torch meanwhile."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        """`files`: the manifest's, path in the set -> SHA-256.

        Raises:
            EngineSetRefused: naming the first file that is missing.
        """
        check_present(folder, files)
        self._folder, self._files = folder, files
        try:
            self._states = {name: _state(folder / name) for name in files}  # before they are hashed
        except OSError as error:
            raise unreadable(error, folder) from error
        threads = ThreadPoolExecutor(thread_name_prefix="hash")
        self._hashes = threads.map(file_sha256, [folder / name for name in files])
        threads.shutdown(wait=False)  # the threads end when all files are hashed

    @classmethod
    def of(cls, folder: Path) -> FileCheck:
        """A check of all files that the set's manifest lists. Raises EngineSetRefused, for the manifest too."""
        return cls(folder, load_manifest(folder).files)

    def wait(self) -> None:
        """Wait until all files are hashed.

        Raises:
            EngineSetRefused: naming the first file that differs, or that cannot be read.
        """
        try:
            for (name, expected), actual in zip(self._files.items(), self._hashes, strict=True):
                if actual != expected:
                    raise changed(self._folder / name, actual, expected)
        except OSError as error:
            raise unreadable(error, self._folder) from error

    def again(self) -> None:
        """Check files that were replaced or written to since they were hashed; the others are not read again.

        Raises:
            EngineSetRefused: naming the first file that differs now, or that cannot be read.
        """
        try:
            for name, expected in self._files.items():
                path = self._folder / name
                state = _state(path)
                if state != self._states[name] and file_sha256(path) != expected:
                    raise replaced(path)
                self._states[name] = state
        except OSError as error:
            raise unreadable(error, self._folder) from error


def _state(path: Path) -> tuple[int, ...]:
    """What differs after a file was replaced or written to."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def check_present(folder: Path, names: Iterable[str]) -> None:
    """Raises EngineSetRefused, naming the first of a manifest's files that is missing, or that cannot be looked at."""
    for path in (folder / name for name in names):
        try:
            is_there = path.is_file()
        except OSError as error:
            raise unreadable(error, path) from error
        if not is_there:
            raise EngineSetRefused(f"{path} is missing: the manifest lists it")


def unreadable(error: OSError, path: Path) -> EngineSetRefused:
    """The error for a file or a folder of a set that cannot be read."""
    return EngineSetRefused(f"{error.filename or path} cannot be read: {error.strerror or error}")


def changed(path: Path, actual: str, expected: str) -> EngineSetRefused:
    """The error for a file whose SHA-256 is `actual`."""
    return EngineSetRefused(
        f"{path} was changed after it was built: its SHA-256 is {actual[:12]}..., the manifest says {expected[:12]}..."
    )


def replaced(path: Path) -> EngineSetRefused:
    """The error for a file that is not the one that was checked when the process started."""
    return EngineSetRefused(
        f"{path} was changed after it was checked at the start; restart the worker to use the set as it is now"
    )


def check_files(folder: Path, files: dict[str, str]) -> None:
    """Hash every file, several at a time.

    Raises:
        EngineSetRefused: naming the first file that is missing or differs.
    """
    FileCheck(folder, files).wait()
