"""A folder of pulled sets: each is complete under its digest, or not there.

    <folder>/<digest>/           a set, whole
    <folder>/.<digest>.part/     what a pull has so far; the next pull of this set goes on from there
    <folder>/.<digest>.lock      held by the pull that writes the part
    <folder>/.<digest>.retired/  a set that was found damaged, until the mended one is in its place

Everything but whole sets is hidden.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal

from engines.build.staging import link
from engines.errors import DiskRefused, EngineSetRefused
from engines.files import file_sha256
from engines.manifest import MANIFEST, Manifest, load_manifest
from engines.store.layout import RECORD, Record, says_the_same, wanted_files

FOLDER_MODE, FILE_MODE = 0o755, 0o644  # workers are other users than the one who pulls


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """In the block, an error of the file system is a DiskRefused that names the file."""
    try:
        yield
    except OSError as error:
        raise DiskRefused(f"{error.filename or path}: {error.strerror or error}") from error


class Shelf:
    """The sets in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()

    def path(self, digest: str) -> Path:
        """Where a set is, once it is whole."""
        return self.folder / digest

    def holds(self, digest: str, *, with_exports: bool, verify: bool, as_in: Manifest | None = None) -> bool:
        """Whether the set is there with all its files; by their sizes, or with `verify` by their SHA-256.

        Sizes are those that were recorded when the set was pulled. Where that record is gone, files are hashed.
        `as_in`: the bucket's manifest, which may have been renewed since.
        """
        folder = self.path(digest)
        try:
            manifest = load_manifest(folder)
        except EngineSetRefused:
            return False
        wanted = wanted_files(manifest, with_exports=with_exports)
        if manifest.digest != digest or not says_the_same(manifest, as_in or manifest):
            return False
        sizes = {} if verify else _record(folder).sizes
        if not sizes.keys() >= wanted.keys():
            return intact(folder, wanted) == wanted.keys()
        return all(_size(folder / name) == sizes[name] for name in wanted)

    def make(self) -> None:
        """Make the folder.

        Raises:
            DiskRefused: it cannot be made, or is a file.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def locked(self, digest: str, wait: Callable[[], object]) -> Iterator[None]:
        """Only one process at a time is in the block for one set. `wait` is called if it has to wait for another.

        The kernel frees the lock of a process that was killed. Its file stays: two processes could hold two files.
        """
        path = self.folder / f".{digest}.lock"
        with disk_errors(path):
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, FILE_MODE)
        try:
            with disk_errors(path):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    wait()
                    fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def begin(self, digest: str, wanted: Mapping[str, str]) -> tuple[Path, set[str]]:
        """The part folder, and the names of `wanted` files (name -> SHA-256) that are in it and intact.

        An interrupted pull left them, or they are linked from the set in place, whose other files are damaged. All else
        is removed from the part.
        """
        part = self._hidden(digest, "part")
        with disk_errors(part):
            if part.is_symlink() or part.is_file():
                part.unlink()
            part.mkdir(exist_ok=True)
            _sweep(part, wanted)
            kept = intact(part, wanted)
            old = self.path(digest)
            for name in intact(old, {name: sha for name, sha in wanted.items() if name not in kept}):
                link(old / name, part / name)
                kept.add(name)
            for name in wanted.keys() - kept:
                (part / name).unlink(missing_ok=True)
        return part, kept

    def check_space(self, missing_bytes: int) -> None:
        """Raises DiskRefused if the disk has too little room: better now than after gigabytes."""
        with disk_errors(self.folder):
            free = shutil.disk_usage(self.folder).free
        if free < missing_bytes:
            raise DiskRefused(
                f"{self.folder} has {decimal(free)} free, and {decimal(missing_bytes)} are still missing; "
                "make room, or name another folder with --into"
            )

    def publish(self, digest: str, manifest: bytes, record: Record) -> Path:
        """Write record and manifest into the part, and put it in the set's place, flushed to disk."""
        part, target, retired = self._hidden(digest, "part"), self.path(digest), self._hidden(digest, "retired")
        with disk_errors(part):
            _write(part / RECORD, record.data)
            _write(part / MANIFEST, manifest)
            if record.built_at is not None:
                built_at = record.built_at.timestamp()
                os.utime(part / MANIFEST, (built_at, built_at))  # `engines push` reads it there
            _finish(part)
            _remove(retired)
            if target.exists() or target.is_symlink():
                target.rename(retired)
            part.rename(target)
            _sync(self.folder)
            _remove(retired)
        return target

    def _hidden(self, digest: str, what: str) -> Path:
        return self.folder / f".{digest}.{what}"


def intact(folder: Path, wanted: Mapping[str, str]) -> set[str]:
    """Names of the files (name -> SHA-256) that exist, are not links, and have their SHA-256."""

    def is_intact(name: str) -> bool:
        path = folder / name
        try:
            return not path.is_symlink() and path.is_file() and file_sha256(path) == wanted[name]
        except OSError:
            return False

    with ThreadPoolExecutor(thread_name_prefix="hash") as pool:
        return {name for name, is_there in zip(wanted, pool.map(is_intact, wanted), strict=True) if is_there}


def _record(folder: Path) -> Record:
    try:
        return Record.of((folder / RECORD).read_bytes())
    except OSError:
        return Record()


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size if path.is_file() else None
    except OSError:
        return None


def _sweep(part: Path, wanted: Mapping[str, str]) -> None:
    """Remove everything but wanted files: half files of a pull that was killed, links, a manifest."""
    for folder, below, files in os.walk(part, topdown=False):
        for name in [*files, *below]:
            path = Path(folder, name)
            if path.is_symlink() or (path.is_file() and path.relative_to(part).as_posix() not in wanted):
                path.unlink()
            elif path.is_dir():
                with contextlib.suppress(OSError):  # it has wanted files
                    path.rmdir()


def _write(path: Path, data: bytes) -> None:
    path.unlink(missing_ok=True)
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _finish(part: Path) -> None:
    """Make everything readable for all users, and flush the folders; the files were flushed as they were written."""
    for folder, _, files in os.walk(part):
        # A mount that fixes its files' modes may refuse.
        with contextlib.suppress(OSError):
            Path(folder).chmod(FOLDER_MODE)
            for name in files:
                Path(folder, name).chmod(FILE_MODE)
        _sync(Path(folder))


def _sync(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
