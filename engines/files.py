"""Files that are written whole or not at all, their digests, and a folder as one zip file."""

from __future__ import annotations

import hashlib
import os
import secrets
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# What is read and hashed at a time. Before and after each piece the thread waits for Python's lock, up to 5 ms while
# another runs Python code, as a worker's main thread does that imports torch: small pieces would make hashing slow.
HASH_BYTES = 2**24
_OLDEST = (1980, 1, 1, 0, 0, 0)  # the oldest time that a zip file can hold


def file_sha256(path: Path) -> str:
    """A file's SHA-256, in hex."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        piece = memoryview(bytearray(min(HASH_BYTES, os.fstat(file.fileno()).st_size + 1)))
        while read := file.readinto(piece):
            digest.update(piece[:read])
    return digest.hexdigest()


def without_links(folder: Path) -> Path:
    """The folder that a path leads to; the path as it was written if it has no symbolic links.

    `engines pull` may point a link to another set at any time. Code that reads a set's files one by one follows the
    link once, so that all files are of one set.
    """
    try:
        real = folder.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself: reading it will say so
        return folder
    return folder if real == folder.absolute() else real


def write_whole(path: Path, data: bytes | str) -> None:
    """Write a file (text as UTF-8) so that a reader finds the old contents or the new ones, never a part."""
    with replacing(path) as scratch:
        scratch.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """A scratch file beside `path`: it takes `path`'s place when the block ends, and is removed if the block fails.

    `shared`: others may be writing `path` at the same time, so the scratch file has a name of its own.
    """
    scratch = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new" if shared else f".{path.name}.new")
    try:
        yield scratch
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


def archive(folder: Path, path: Path, *, content: Callable[[Path], bytes] = Path.read_bytes) -> None:
    """Write all files below `folder` into one zip file, whole or not at all; the same files give the same bytes.

    `content` reads a file: it may change what the archive holds of it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as scratch, zipfile.ZipFile(scratch, "w", zipfile.ZIP_DEFLATED) as file:
        for each in sorted(folder.rglob("*")):
            if each.is_file():
                entry = zipfile.ZipInfo(each.relative_to(folder).as_posix(), _OLDEST)
                file.writestr(entry, content(each), zipfile.ZIP_DEFLATED)
