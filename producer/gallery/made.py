"""The index of a gallery: what was made from what, so that a second run makes only what is new.

An SQLite file beside the small copies. A killed run leaves what its last finished page noted; a file that is damaged or
of another version is made again, which costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from producer.exits import CommandFailed, Exit
from producer.gallery.thumbnails import Thumbnail

VERSION = 2
IN_ONE_QUESTION = 500  # SQLite allows at least 999 values
CACHE_KIB = 32 * 1024
WAIT_SECONDS = 30.0  # for another run that writes to the same index
_TABLES = f"""
    CREATE TABLE pictures (
        key BLOB PRIMARY KEY, path BLOB, width INTEGER, height INTEGER, problem TEXT, text TEXT,
        identity TEXT, looked_at REAL, bytes INTEGER
    ) WITHOUT ROWID;
    CREATE TABLE pages (name TEXT PRIMARY KEY, digest TEXT, identity TEXT) WITHOUT ROWID;
    PRAGMA user_version = {VERSION};
"""
_COLUMNS = "key, path, width, height, problem, text, identity, looked_at, bytes"
T = TypeVar("T")


class Made:
    """What the gallery in the folder `root` holds, by picture and by page. For one thread.

    The index is `path`, beside the small copies.

    Raises:
        CommandFailed: the index cannot be written.
    """

    def __init__(self, path: Path, *, root: Path) -> None:
        self._path = path
        self._root = root
        self._folder = path.parent
        try:
            self._database = self._opened()
        except sqlite3.Error as error:
            self._replace(error)

    def close(self) -> None:
        """Close the file. What was not committed is forgotten."""
        self._database.close()

    def thumbnails(self, uris: Iterable[str]) -> dict[str, Thumbnail]:
        """What is noted of some pictures, by URI."""
        keys = {_key(uri): uri for uri in uris}
        return self._trying(lambda: self._read(keys))

    def note_thumbnails(self, thumbnails: Mapping[str, Thumbnail]) -> None:
        """Note what was made of pictures, by URI."""
        rows = [(_key(uri), *self._row(made)) for uri, made in thumbnails.items() if not made.may_change]
        insert = f"INSERT OR REPLACE INTO pictures ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._trying(lambda: self._database.executemany(insert, rows))

    def is_page(self, name: str, digest: str) -> bool:
        """Whether a file in the gallery was made from this and has not been changed since."""
        found = self._trying(
            lambda: self._database.execute("SELECT digest, identity FROM pages WHERE name = ?", (name,)).fetchone()
        )
        return bool(found == (digest, identity_of(self._root / name)))

    def note_page(self, name: str, digest: str) -> None:
        """Note what a file in the gallery was made from."""
        row = (name, digest, identity_of(self._root / name))
        self._trying(lambda: self._database.execute("INSERT OR REPLACE INTO pages VALUES (?, ?, ?)", row))

    def commit(self) -> None:
        """Keep what was noted, whatever happens next."""
        self._trying(lambda: self._database.commit())

    def forget_pages(self, but: Iterable[str]) -> list[str]:
        """Forget all files but these. Returns the names of those that are still as they were made."""
        kept = set(but)
        rows = self._trying(lambda: self._database.execute("SELECT name, identity FROM pages").fetchall())
        gone = [(name, identity) for name, identity in rows if name not in kept]
        self._trying(lambda: self._database.executemany("DELETE FROM pages WHERE name = ?", [row[:1] for row in gone]))
        self.commit()
        return [name for name, identity in gone if identity == identity_of(self._root / name)]

    def _read(self, keys: Mapping[bytes, str]) -> dict[str, Thumbnail]:
        wanted, found = sorted(keys), {}  # in the order in which the file has them
        folder = os.path.join(self._folder, "")  # noqa: PTH118 (a text, as below: a Path would take longer)
        for begin in range(0, len(wanted), IN_ONE_QUESTION):
            part = wanted[begin : begin + IN_ONE_QUESTION]
            marks = ",".join("?" * len(part))
            for key, path, *rest in self._database.execute(
                f"SELECT {_COLUMNS} FROM pictures WHERE key IN ({marks})", part
            ):
                if path is not None:
                    file = os.fsdecode(path)
                    path = file if file.startswith(os.sep) else folder + file
                found[keys[key]] = Thumbnail(path, *rest)
        return found

    def _row(self, made: Thumbnail) -> tuple[object, ...]:
        path = made.path
        if path is not None and path.is_relative_to(self._folder):
            path = path.relative_to(self._folder)  # so that the folder may be moved
        kept = None if path is None else os.fsencode(path)
        text = made.text
        return (kept, made.width, made.height, made.problem, text, made.identity, made.looked_at, made.bytes)

    def _opened(self) -> sqlite3.Connection:
        database = sqlite3.connect(self._path, timeout=WAIT_SECONDS)
        try:
            # What a power cut takes is made again, so nothing has to reach the disk at once.
            database.execute("PRAGMA synchronous = OFF")
            database.execute(f"PRAGMA cache_size = -{CACHE_KIB}")  # each page asks for rows from all over the file
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version == 0 and not database.execute("SELECT 1 FROM sqlite_master").fetchone():
                database.executescript(_TABLES)
            elif version != VERSION:
                raise sqlite3.DatabaseError(f"version {version}")
            database.execute("SELECT digest, identity FROM pages LIMIT 1").fetchone()
            database.execute(f"SELECT {_COLUMNS} FROM pictures LIMIT 1").fetchone()
        except BaseException:
            database.close()
            raise
        return database

    def _trying(self, action: Callable[[], T]) -> T:
        """Run it; again with an empty index where this one is damaged."""
        try:
            return action()
        except sqlite3.Error as error:
            self._replace(error, self._database)
        try:
            return action()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _replace(self, error: sqlite3.Error, opened: sqlite3.Connection | None = None) -> None:
        """An empty index in the place of one that is damaged, as the error says."""
        if not _is_damaged(error):
            raise self._unusable(error) from error
        try:
            if opened is not None:
                opened.close()
            for path in (self._path, self._path.with_name(f"{self._path.name}-journal")):
                path.unlink(missing_ok=True)
            self._database = self._opened()
        except sqlite3.Error as again:
            raise self._unusable(again) from again

    def _unusable(self, error: sqlite3.Error) -> CommandFailed:
        return CommandFailed(Exit.STORAGE, f"{self._path} cannot be used: {error}")


def identity_of(path: Path) -> str | None:
    """The size and time of a file; None if it does not exist."""
    try:
        found = path.stat()
    except OSError:
        return None
    return f"{found.st_size}-{found.st_mtime_ns}"


def _is_damaged(error: sqlite3.Error) -> bool:
    """Whether the file must be made again. A full disk, a folder without permission and a lock are other matters."""
    blameless = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY}
    blameless |= {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_PERM, sqlite3.SQLITE_PROTOCOL}
    return (getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF) not in blameless


def _key(uri: str) -> bytes:
    """URIs may hold signatures, which are kept nowhere."""
    return hashlib.sha256(uri.encode("utf-8", "surrogatepass")).digest()[:16]
