"""What the page shows of a picture: a small copy, the picture itself where it is small, or why there is neither."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from urllib.parse import urlsplit

from jobs.errors import RenderError, SourceNotFound, SourceUnavailable
from jobs.storage.file import source_file, write_whole
from jobs.storage.http import FetchLimits
from jobs.storage.store import read_bytes
from jobs.uri import path_of
from producer.console import place, printable
from producer.gallery.heif import is_out_of_date, missing_library
from producer.gallery.png_chunks import END, chunks_of, content_name, without_extras
from producer.gallery.small_copy import UNREADABLE, is_opaque, opened, small_copy, why_unreadable
from producer.picture_texts import RENDER, texts_of

SHOWN_ITSELF_SIDE = 1024  # pixels
SHOWN_ITSELF_BYTES = 2 * 2**20
HEAD_BYTES = 64 * 2**10  # of a PNG: its header and our texts
ENDS = {".jpg": b"\xff\xd9", ".png": END}  # of whole small copies
TRIES_OF_A_HOST = 5  # that does not answer; each may take RENDER_FETCH_TIMEOUT_SECONDS


@dataclass(frozen=True)
class Thumbnail:
    """What is shown of a picture: a file and its size in pixels, or why it cannot be shown.

    `identity` is the size and time of a local picture's file; it is empty for one that is elsewhere. `looked_at` is
    when the picture was read, in seconds since the epoch. `bytes` are those of the small copy's file, 0 where there is
    none. `text` is the JSON in the picture that holds a result's parameters.
    """

    file: str | None  # a path, as text: there are hundreds of thousands
    width: int = 0
    height: int = 0
    problem: str | None = None
    text: str | None = None
    identity: str = ""
    looked_at: float = 0.0
    bytes: int = 0
    may_change: bool = False  # the problem may be gone the next time: it is not worth remembering

    @property
    def path(self) -> Path | None:
        """The file that is shown."""
        return None if self.file is None else Path(self.file)


class Thumbnails:
    """Small copies in one folder, named by what they show: equal pictures share one.

    With `copy_all` every picture gets a small copy. Without it, a small PNG on this machine is shown itself: decoding
    it takes longer than everything else together. Safe from many threads.
    """

    def __init__(self, folder: Path, limits: FetchLimits, max_pixels: int, *, copy_all: bool = True) -> None:
        self._folder = folder
        self._limits = limits
        self._max_pixels = max_pixels
        self._copy_all = copy_all
        self._hosts = _Hosts()
        folder.mkdir(parents=True, exist_ok=True)

    def of(self, uri: str, *, made_at: float, known: Thumbnail | None = None) -> Thumbnail:
        """What is shown of a picture: `known` again, if that is still true of it.

        `made_at` is when the picture was made, in seconds since the epoch.

        Raises:
            OSError: the small copy cannot be written.
        """
        file = _file_of(uri)
        identity = "" if file is None else f"{file.st_size}-{file.st_mtime_ns}"
        if known is not None and self._is_still_true(known, identity, made_at):
            return known
        now = time.time()
        try:
            itself = None if self._copy_all or file is None else _itself(path_of(uri), file)
            made = itself or self._copied(self._hosts.read(uri, self._limits))
        except SourceNotFound:
            return Thumbnail(None, problem=f"not found from here: {place(uri)}", may_change=True)
        except RenderError as error:
            return Thumbnail(None, problem=printable(str(error)), may_change=True)
        return replace(made, identity=identity, looked_at=now)

    def _is_still_true(self, known: Thumbnail, identity: str, made_at: float) -> bool:
        if known.identity != identity or not (identity or known.looked_at > made_at):
            return False
        if is_out_of_date(known.problem):
            return False
        if not known.bytes:  # the picture itself, or a problem
            return known.file is None or not self._copy_all
        try:
            return known.file is not None and os.stat(known.file).st_size == known.bytes  # noqa: PTH116 (faster)
        except OSError:
            return False

    def _copied(self, data: bytes) -> Thumbnail:
        chunks = chunks_of(data)
        name = content_name(data, chunks)
        stem = self._folder / name[:2] / name
        data = without_extras(data, chunks) if chunks else data
        made = _existing(stem)
        if made is None:
            if reason := missing_library(data):
                return Thumbnail(None, problem=reason)
            try:
                copy = small_copy(data, max_pixels=self._max_pixels, chunks=chunks)
            except UNREADABLE as error:
                return Thumbnail(None, problem=f"not a readable picture: {why_unreadable(error)}")
            made = Thumbnail(str(stem.with_suffix(copy.suffix)), copy.width, copy.height, bytes=len(copy.data))
            stem.parent.mkdir(exist_ok=True)
            write_whole(stem.with_suffix(copy.suffix), copy.data, durable=False)
        return replace(made, text=render_text(data))


def render_text(data: bytes) -> str | None:
    """A result's parameters as JSON, where the picture has them; the pixels are not decoded."""
    try:
        with opened(data) as image:
            return texts_of(image).get(RENDER)
    except UNREADABLE:
        return None


def _local(uri: str) -> str:
    """The path of a local picture: path_of, taken apart once a folder."""
    folder, _, name = uri.rpartition("/")
    return str(path_of(uri)) if "%" in name or not name else f"{_local_folder(folder)}/{name}"


@lru_cache(maxsize=1024)
def _local_folder(uri: str) -> str:
    return str(path_of(f"{uri}/"))


def _itself(path: Path, file: os.stat_result) -> Thumbnail | None:
    """A small PNG that a browser shows as it is, or None. Its first and last bytes are read, no others."""
    if file.st_size > SHOWN_ITSELF_BYTES:
        return None
    with source_file(path) as source:
        head = source.read(HEAD_BYTES)
    try:
        with opened(head) as image:
            is_small = image.format == "PNG" and max(image.size) <= SHOWN_ITSELF_SIDE
            if not (is_small and is_opaque(image) and _ends_with(path, END)):
                return None
            return Thumbnail(str(path), *image.size, text=texts_of(image).get(RENDER))
    except UNREADABLE:
        return None


def _existing(stem: Path) -> Thumbnail | None:
    """The small copy that an equal picture left, if it is whole."""
    for suffix, end in ENDS.items():
        path = stem.with_suffix(suffix)
        try:
            if _ends_with(path, end):
                with opened(path.read_bytes()) as copy:
                    return Thumbnail(str(path), *copy.size, bytes=path.stat().st_size)
        except UNREADABLE:
            continue
    return None


def _ends_with(path: Path, end: bytes) -> bool:
    """Whether a file is there and ends so.

    Raises:
        OSError: it is not there, or shorter.
    """
    with path.open("rb") as file:
        file.seek(-len(end), os.SEEK_END)
        return file.read() == end


def _file_of(uri: str) -> os.stat_result | None:
    """The size and time of a local picture; None where there is no such file, or the picture is elsewhere."""
    if not uri.startswith("file:"):
        return None
    try:
        found = os.stat(_local(uri))  # noqa: PTH116 (faster)
    except (OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


class _Hosts:
    """Reads pictures, and gives up a host that has not answered a few times in a row."""

    def __init__(self) -> None:
        self._silent: Counter[str] = Counter()
        self._lock = threading.Lock()

    def read(self, uri: str, limits: FetchLimits) -> bytes:
        host = _host(uri)
        if host is not None and self._silent[host] >= TRIES_OF_A_HOST:
            raise SourceUnavailable(f"{host} did not answer {TRIES_OF_A_HOST} times: not asked again in this run")
        try:
            data = read_bytes(uri, limits)
        except RenderError as error:
            if host is not None:
                self._note(host, is_silent=isinstance(error, SourceUnavailable) or error.unfit)
            raise
        if host is not None:
            self._note(host, is_silent=False)
        return data

    def _note(self, host: str, *, is_silent: bool) -> None:
        with self._lock:
            self._silent[host] = self._silent[host] + 1 if is_silent else 0


def _host(uri: str) -> str | None:
    """What answers for a URI: a host, or the S3 service; None for files."""
    scheme = uri.partition(":")[0].lower()
    if scheme == "s3":
        return "the S3 service"
    try:
        return urlsplit(uri).hostname if scheme in ("http", "https") else None
    except ValueError:
        return None
