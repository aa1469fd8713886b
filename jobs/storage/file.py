"""file://: reading the files that jobs name, and writing files so that each is visible whole or not at all.

A file is written under a hidden name, flushed to disk and renamed. FileStore keeps such parts in the folder `.part`
beside the target. What a kill -9 leaves there is removed by a later write into the same folder, once it is old.

Paths are text here, not pathlib's: jobs.uri.file_path says why.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from jobs.errors import SourceForbidden, SourceTooLarge
from jobs.storage.file_errors import is_missing, may_not_look, output_error, output_errors, source_error
from jobs.storage.limits import OWN_LIMITS, FetchLimits
from jobs.storage.part import Part
from jobs.uri import file_path

PARTS = ".part"
LONGEST_NAME = 50  # characters of a file's name in its part's name: up to 200 of the 255 bytes that file systems allow
# The time at which a part was begun is in its name, so that no file server's clock and no stat call is needed.
_PART = re.compile(r"(\d{10})-[0-9a-f]{16}\.part")
Progress = Callable[[int], object]  # is called with the bytes of a file that are transferred so far
# An empty folder does no harm. It stays where it is not empty, is mounted, or may not be taken out of the one above it.
_FOLDER_STAYS = frozenset({errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS})
ABANDONED_SECONDS = 3600.0  # no write takes so long; clocks of machines that share a folder differ by less
CHUNK_BYTES = 2**20


class FileStore:
    """jobs.storage.store.Store for file:// URIs."""

    def __init__(self, limits: FetchLimits = OWN_LIMITS) -> None:
        self._limits = limits

    def read(self, uri: str) -> bytes:
        """The bytes of a regular file, which the policy allows to be read."""
        path, max_bytes = self._readable(uri), self._limits.max_bytes
        with source_file(path) as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes:
            raise _too_large(path, max_bytes)
        return data

    def read_part(self, uri: str, *, start: int, size: int) -> Part:
        """A part of a regular file, which the policy allows to be read."""
        path, max_bytes = self._readable(uri), self._limits.max_bytes
        with source_file(path) as file:
            part = file.part(start, size)
        if part.total is not None and part.total > max_bytes:
            raise _too_large(path, max_bytes)
        return part

    def write(self, uri: str, data: bytes, content_type: str) -> None:  # noqa: ARG002 (files have no content type)
        """Store bytes, flushed to disk."""
        with self._replacing(uri) as file:
            file.write(data)

    def exists(self, uri: str) -> bool | None:
        """Whether a regular file is there; None where its folder may not be searched."""
        path = file_path(uri)
        try:
            return stat.S_ISREG(os.stat(path).st_mode)
        except (OSError, ValueError) as error:
            if is_missing(error):
                return False
            if may_not_look(error):
                return None
            raise output_error(path, error, done="looked up") from error

    def names(self, folder: str) -> Iterator[str]:
        """Names in the folder."""
        path = file_path(folder)
        with output_errors(path, done="listed"):  # is_dir, too, may have to ask the file system
            for entry in _entries(path):
                yield entry.name + ("/" if entry.is_dir() else "")

    def names_below(self, folder: str) -> Iterator[str]:
        """Names of the files below the folder, without unfinished ones. Links to folders are not followed."""
        return _names_below(file_path(folder), "")

    def sizes_below(self, folder: str) -> Iterator[tuple[str, int]]:
        """Names and bytes of the files that `names_below` gives."""
        path = file_path(folder)
        for name in _names_below(path, ""):
            with output_errors(path, done="listed"), contextlib.suppress(FileNotFoundError):  # removed meanwhile
                yield name, os.stat(os.path.join(path, name)).st_size

    def put_file(
        self,
        uri: str,
        path: Path,
        content_type: str,  # noqa: ARG002 (files have no content type)
        *,
        progress: Progress | None = None,
    ) -> str:
        """Copy a local file."""
        with source_file(path) as source, self._replacing(uri) as target:
            return _copy(source, target, progress)

    def get_file(self, uri: str, path: Path, *, progress: Progress | None = None) -> str:
        """Copy to a local file."""
        with source_file(self._readable(uri)) as source, output_file(path) as target:
            return _copy(source, target, progress)

    def delete(self, uri: str) -> None:
        """Remove the file, if there is one."""
        path = file_path(uri)
        try:
            os.unlink(path)
        except (OSError, ValueError) as error:
            if not is_missing(error):
                raise output_error(path, error, done="deleted") from error

    def delete_empty(self, folder: str) -> None:
        """Remove the parts of unfinished files, and the folder if it is empty then and may go. A link stays."""
        path = file_path(folder)
        parts = os.path.join(path, PARTS)
        with output_errors(parts, done="deleted"):
            for entry in _entries(parts):
                if _PART.fullmatch(entry.name):
                    with contextlib.suppress(FileNotFoundError):  # it was finished meanwhile
                        os.unlink(entry.path)
        for each in (parts, path):
            with output_errors(each, done="deleted"):
                _remove_if_empty(each)

    def _readable(self, uri: str) -> str:
        policy = self._limits.policy
        return file_path(uri) if policy is None else policy.source_path(uri)

    @contextmanager
    def _replacing(self, uri: str) -> Iterator[BinaryIO]:
        path = file_path(uri)
        parts = os.path.join(os.path.dirname(path), PARTS)
        with output_errors(path):
            if "\0" in path:  # said before the folder is made, which may be refused for another reason
                raise ValueError("embedded null byte")
            _make_folder(parts)
            _sweep(parts)
            part = os.path.join(parts, f"{int(time.time()):010d}-{secrets.token_hex(8)}.part")
            with _whole_file(path, part, durable=True) as file:
                yield file


def _too_large(path: str, max_bytes: int) -> SourceTooLarge:
    return SourceTooLarge(f"{path} is larger than {max_bytes:,} bytes (RENDER_FETCH_MAX_BYTES)")


def write_whole(path: Path, data: bytes, *, durable: bool = True) -> None:
    """Write a file that is visible whole or not at all. Its folder must exist. `durable`: as in whole_file.

    Raises:
        OSError: it cannot be written. Nothing has changed then.
    """
    with whole_file(path, durable=durable) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path, *, durable: bool = True) -> Iterator[BinaryIO]:
    """A file to write to. It becomes visible, whole, when the block ends without an error.

    `durable` flushes it to disk first, so that it survives a power cut; a file that can be made again, such as a
    thumbnail, does without. Do not close the file inside the block; detach a TextIOWrapper around it. The folder must
    exist. Until the end the data is in a hidden file of its own beside it, `.<name>.<random>.part`.

    Raises:
        OSError: it cannot be written. Nothing has changed then.
    """
    folder, name = os.path.split(path)
    part = os.path.join(folder, f".{name[:LONGEST_NAME]}.{secrets.token_hex(8)}.part")
    try:
        with _whole_file(str(path), part, durable=durable) as file:
            yield file
    except OSError as error:
        if error.filename == part:
            error.filename = str(path)  # people know the file by this name
        raise


@contextmanager
def output_file(path: Path) -> Iterator[BinaryIO]:
    """whole_file, for results: it creates the folder, and raises the Output errors.

    Raises:
        OutputForbidden, OutputFull, OutputUnavailable: as their names say. Nothing has changed then.
    """
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            yield file


@contextmanager
def source_file(path: str | Path) -> Iterator[SourceFile]:
    """A regular file to read from.

    Raises:
        SourceNotFound, SourceForbidden, SourceUnavailable: as their names say.
    """
    with os.fdopen(_opened(path), "rb") as file:
        yield SourceFile(path, file)


def _opened(path: str | Path) -> int:
    """A descriptor of a regular file."""
    try:
        # Without O_NONBLOCK, opening a pipe without a writer would never return.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        raise source_error(path, error) from error
    problem: Exception = SourceForbidden(f"{path} is not a regular file")  # a device could be read for ever
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return descriptor
    except OSError as error:  # of a file server that went away meanwhile
        problem = source_error(path, error)
    os.close(descriptor)
    raise problem


class SourceFile:
    """Reads a local file and raises the Source errors. It has no `seek`: a hash must see every byte once."""

    def __init__(self, path: str | Path, file: BinaryIO) -> None:
        self._path = path
        self._file = file

    def read(self, size: int = -1) -> bytes:
        """At most `size` bytes; all that are left where it is negative."""
        try:
            return self._file.read(size)
        except (OSError, ValueError) as error:
            raise source_error(self._path, error) from error

    def part(self, start: int, size: int) -> Part:
        """At most `size` bytes from `start` on; what `read` gives next stays the same."""
        try:
            number = self._file.fileno()
            return Part(os.pread(number, size, start), os.fstat(number).st_size)
        except (OSError, ValueError) as error:
            raise source_error(self._path, error) from error


class HashedSource:
    """What was read through it, hashed on the way."""

    def __init__(self, source: SourceFile, progress: Progress | None = None) -> None:
        self._source = source
        self._digest = hashlib.sha256()
        self._progress = progress
        self._bytes = 0

    def read(self, size: int = -1) -> bytes:
        """As SourceFile.read."""
        data = self._source.read(size)
        self._digest.update(data)
        self._bytes += len(data)
        if self._progress is not None:
            self._progress(self._bytes)
        return data

    def hexdigest(self) -> str:
        """SHA-256 of all that was read."""
        return self._digest.hexdigest()


def _copy(source: SourceFile, target: BinaryIO, progress: Progress | None) -> str:
    hashed = HashedSource(source, progress)
    shutil.copyfileobj(hashed, target, CHUNK_BYTES)
    return hashed.hexdigest()


@contextmanager
def _whole_file(path: str, part: str, *, durable: bool) -> Iterator[BinaryIO]:
    try:
        with open(part, "xb") as file:
            yield file
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):  # the first error is the one to report
            os.unlink(part)
        raise
    if durable:
        _sync_folder(os.path.dirname(path) or ".")


def _make_folder(folder: str) -> None:
    """Make a folder and those above it. Most writes find it there."""
    try:
        os.mkdir(folder)
    except FileNotFoundError:
        os.makedirs(folder, exist_ok=True)
    except OSError:  # the reason does not matter if the folder is there
        if not os.path.isdir(folder):
            raise


def _remove_if_empty(folder: str) -> None:
    try:
        os.rmdir(folder)
    except OSError as error:
        if not is_missing(error) and error.errno not in _FOLDER_STAYS:
            raise


def _sync_folder(folder: str) -> None:
    """Without this, a power cut could lose the name of a result that the ledger, on another machine, knows as done."""
    with contextlib.suppress(OSError):  # some network file systems cannot
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _sweep(parts: str) -> None:
    oldest = time.time() - ABANDONED_SECONDS
    with contextlib.suppress(OSError), os.scandir(parts) as entries:  # tidiness must not fail a write
        for entry in entries:
            match = _PART.fullmatch(entry.name)
            if match is not None and int(match[1]) < oldest:
                os.unlink(entry.path)


def _entries(folder: str) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            yield from entries
    except (OSError, ValueError) as error:
        if not is_missing(error):
            raise output_error(folder, error, done="listed") from error


def _names_below(folder: str, prefix: str) -> Iterator[str]:
    with output_errors(folder, done="listed"):
        for entry in _entries(folder):
            if entry.is_dir(follow_symlinks=False):
                if entry.name != PARTS:
                    yield from _names_below(entry.path, f"{prefix}{entry.name}/")
            elif entry.is_file():
                yield prefix + entry.name
