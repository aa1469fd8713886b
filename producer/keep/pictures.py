"""Pictures: small copies of results, made when a page asks for them and kept in memory for a while."""

from __future__ import annotations

import os.path
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field

from jobs.errors import OutputForbidden, RenderError
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.limits import FetchLimits
from jobs.storage.store import read_bytes
from jobs.uri import file_path
from producer.gallery.png_chunks import chunks_of, without_extras
from producer.gallery.small_copy import UNREADABLE, small_copy, why_unreadable

CACHE_BYTES = 64 * 2**20
COPY_OVERHEAD_BYTES = 512  # of an entry, which may have no picture
MAX_PIXELS = 20_000_000  # results have at most a fifth of that
AT_ONCE = 2  # pictures that are read and decoded
WAIT_SECONDS = 20.0  # for a turn
PROBLEM_SECONDS = 20.0  # before a picture that could not be read is tried again
FORBIDDEN = (
    "`producer keep` may not read pictures there: give it the RENDER_OUTPUT_URI of the workers, or name the folder or "
    "the bucket in its RENDER_ALLOW_FOLDERS or RENDER_ALLOW_BUCKETS"
)

Name = tuple[str, str, int]  # batch, job id, sample


@dataclass(frozen=True)
class Copy:
    """A small copy, or why it could not be made."""

    data: bytes = b""
    content_type: str = ""
    problem: str | None = None
    made: float = field(default_factory=time.monotonic)

    @property
    def is_old(self) -> bool:
        """Whether it is a problem that may be gone by now."""
        return self.problem is not None and time.monotonic() - self.made > PROBLEM_SECONDS


class Busy(Exception):
    """Too many pictures are requested at once: ask again."""


class Pictures:
    """Reads only pictures that the ledger names: a request names a job, never a URI. Safe from many threads.

    A program that can write to Redis can name any file as a result, so this shows only what a worker with these
    settings might have written.
    """

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        """May raise SettingsError: RENDER_ALLOW_FOLDERS or RENDER_OUTPUT_URI cannot be used."""
        self._ledger = ledger
        self._limits = FetchLimits.of(settings)
        self._policy = AccessPolicy.of(settings)
        self._making = threading.BoundedSemaphore(AT_ONCE)
        self._cache = _Cache()

    def of(self, batch: str, job_id: str, sample: int) -> Copy:
        """The small copy of one sample.

        Raises:
            Busy: no turn came.
            LedgerUnavailable: Redis does not answer.
        """
        name = (batch, job_id, sample)
        if known := self._cache.get(name):
            return known
        if not self._making.acquire(timeout=WAIT_SECONDS):
            raise Busy
        try:
            copy = self._cache.get(name) or self._made(name)
        finally:
            self._making.release()
        self._cache.put(name, copy)
        return copy

    def _made(self, name: Name) -> Copy:
        batch, job_id, sample = name
        info = self._ledger.batch(batch)
        results = self._ledger.results_of(batch, [job_id]) if info else []
        samples = results[0].samples if results else ()
        if info is None or sample >= len(samples):
            return Copy(problem="there is no such picture")
        uri = samples[sample]
        if not is_within(uri, info.folder):
            return Copy(problem="the ledger names a picture that is not in its batch's output: it is not read")
        try:
            self._policy.check_output(uri)
            return _copied(read_bytes(uri, self._limits))
        except OutputForbidden:
            return Copy(problem=FORBIDDEN)
        except RenderError as error:
            return Copy(problem=f"it cannot be read from here: {error}")


def is_within(uri: str, folder: str) -> bool:
    """Whether a URI of a file or an object is below a folder, whatever dots are in it."""
    if uri.startswith("s3://"):
        return uri.startswith(f"{folder}/")
    if not (uri.startswith("file://") and folder.startswith("file://")):
        return False
    inside, outside = os.path.normpath(file_path(uri)), os.path.normpath(file_path(folder))
    return inside.startswith(f"{outside}{os.sep}")


def _copied(data: bytes) -> Copy:
    chunks = chunks_of(data)
    try:
        copy = small_copy(without_extras(data, chunks) if chunks else data, max_pixels=MAX_PIXELS, chunks=chunks)
    except UNREADABLE as error:
        return Copy(problem=f"the picture cannot be read: {why_unreadable(error)}")
    return Copy(copy.data, "image/png" if copy.suffix == ".png" else "image/jpeg")


class _Cache:
    """The copies that were asked for last, up to CACHE_BYTES."""

    def __init__(self) -> None:
        self._copies: OrderedDict[Name, Copy] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get(self, name: Name) -> Copy | None:
        with self._lock:
            copy = self._copies.get(name)
            if copy is None or copy.is_old:
                return None
            self._copies.move_to_end(name)
            return copy

    def put(self, name: Name, copy: Copy) -> None:
        with self._lock:
            if old := self._copies.pop(name, None):
                self._bytes -= _bytes(old)
            self._copies[name] = copy
            self._bytes += _bytes(copy)
            while self._bytes > CACHE_BYTES:
                _, oldest = self._copies.popitem(last=False)
                self._bytes -= _bytes(oldest)


def _bytes(copy: Copy) -> int:
    return len(copy.data) + COPY_OVERHEAD_BYTES
