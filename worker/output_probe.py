"""OutputProbe: whether this worker can write where results go, asked by writing one small file, always the same one.

It needs the right to put, and neither to list nor to delete. The file is `<output>/.render-probe`; where only a batch's
own folder may be written, it is `<output>/<batch>/.render-probe`.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.errors import Cancelled, OutputForbidden, OutputFull, RenderError, Requeued
from jobs.job import RenderJob
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.store import Store, store_for
from jobs.uri import path_of

NAME = ".render-probe"
TEXT = b"A worker wrote this file to see whether it may write here. It can be deleted.\n"
LARGEST_BYTES = 16 * 2**20
REMEMBERED = 1000  # batches whose output was tried
FAILURE_SECONDS = 2.0  # jobs that wait for one try share its failure

Insist = Callable[[Callable[[], None]], None]  # call, and call again while storage is away


@dataclass(frozen=True)
class Place:
    """Where the results of a batch go. The first of these folders that may be written is tried."""

    folders: tuple[str, ...]

    @classmethod
    def of(cls, job: RenderJob, policy: AccessPolicy) -> Place:
        """The batch's output, and the batch's own folder below it."""
        output = job.output.rstrip("/")
        try:
            policy.check_output(output)
        except RenderError:  # only the batch's folder is on the allow-list
            return cls((job.folder,))
        return cls((output, job.folder))


class OutputProbe:
    """Writes the probe before a batch's first picture is rendered, and when a write has failed. Safe for many threads.

    `once` raises what the store raises; `problem` returns it.
    """

    def __init__(self, policy: AccessPolicy, open_store: Callable[[str], Store] = store_for) -> None:
        self._policy = policy
        self._open_store = open_store
        self._lock = threading.Lock()
        self._turns: dict[Place, threading.Lock] = {}
        self._passed: OrderedDict[Place, None] = OrderedDict()
        self._doubtful: OrderedDict[Place, None] = OrderedDict()  # a job failed there although the probe had passed
        self._failed: OrderedDict[Place, tuple[float, RenderError]] = OrderedDict()

    def once(self, job: RenderJob, *, insist: Insist, check: Callable[[], None]) -> None:
        """Write the probe if this process has not yet written it for the job's batch.

        Jobs of one batch wait for the first of them. `check` raises if the job should not wait any longer.

        Raises:
            OutputForbidden, OutputFull: this worker cannot write there.
            OutputUnavailable, OutputFull: storage is away, for longer than `insist` waits. Jobs share that wait, too.
        """
        place = Place.of(job, self._policy)
        if place in self._passed:
            return
        with self._lock:
            turn = self._turns.setdefault(place, threading.Lock())
        while not turn.acquire(timeout=1.0):
            check()
        try:
            self._once(place, insist)
        finally:
            turn.release()

    def problem(self, place: Place, *, size: int = 0) -> RenderError | None:
        """What now prevents a file of `size` bytes there; None if nothing does. One try; it may take a minute."""
        try:
            self._write(place, _call, size=min(size, LARGEST_BYTES))
        except RenderError as error:
            with self._lock:
                self._passed.pop(place, None)
            return error
        return None

    def doubt(self, place: Place) -> None:
        """A job could not write there: before the next one is rendered, try again, the batch's own folder too."""
        with self._lock:
            self._passed.pop(place, None)
            self._doubtful[place] = None
            _bound(self._doubtful)

    def others(self, place: Place, number: int = 3) -> list[Place]:
        """Places that could be written, the latest first."""
        with self._lock:
            return [other for other in reversed(self._passed) if not set(other.folders) & set(place.folders)][:number]

    def _once(self, place: Place, insist: Insist) -> None:
        if place in self._passed:
            return
        failed_at, error = self._failed.get(place, (0.0, None))
        if error is not None and time.monotonic() - failed_at < FAILURE_SECONDS:
            raise error
        try:
            self._write(place, insist)
            if place in self._doubtful:
                self._write_to(place.folders[-1], insist)
        except RenderError as error:
            if isinstance(error, Cancelled | Requeued):
                raise
            self._failed_now(place, error)
            raise
        self._passed_now(place)

    def _failed_now(self, place: Place, error: RenderError) -> None:
        with self._lock:
            self._failed[place] = time.monotonic(), error
            self._failed.move_to_end(place)
            for forgotten in _bound(self._failed):
                self._turns.pop(forgotten, None)

    def _passed_now(self, place: Place) -> None:
        with self._lock:
            self._failed.pop(place, None)
            self._doubtful.pop(place, None)
            self._passed[place] = None
            self._passed.move_to_end(place)
            for forgotten in _bound(self._passed):
                self._turns.pop(forgotten, None)

    def _write(self, place: Place, insist: Insist, *, size: int = 0) -> None:
        *others, last = place.folders
        for folder in others:
            try:
                return self._write_to(folder, insist, size=size)
            except OutputForbidden:  # perhaps only the batch's own folder is ours
                continue
        return self._write_to(last, insist, size=size)

    def _write_to(self, folder: str, insist: Insist, *, size: int = 0) -> None:
        store, uri = self._open_store(folder), f"{folder.rstrip('/')}/{NAME}"
        if size > len(TEXT):  # random, because a file system may compress
            insist(lambda: store.write(uri, os.urandom(size), "application/octet-stream"))
        insist(lambda: store.write(uri, TEXT, "text/plain"))


def _bound(places: OrderedDict[Place, Any]) -> list[Place]:
    """Forget the oldest; returns what was forgotten."""
    return [places.popitem(last=False)[0] for _ in range(len(places) - REMEMBERED)]


def _call(call: Callable[[], None]) -> None:
    call()


def folder_problem(uri: str) -> RenderError | None:
    """What prevents writing below a `file://` folder, as far as it can be told without writing or creating anything."""
    path = path_of(uri)
    folder = Path(os.path.realpath(path))
    while not os.path.exists(folder) and folder != folder.parent:  # noqa: PTH110 (Path.exists raises where not allowed)
        folder = folder.parent
    try:
        system = os.statvfs(folder)
    except OSError:
        return None  # the first job's probe will say more
    if not folder.is_dir():
        return OutputForbidden(f"{path} may not be written: {folder} is not a folder")
    if system.f_flag & os.ST_RDONLY:
        return OutputForbidden(f"{path} may not be written: {folder} is on a read-only file system", unfit=True)
    if system.f_blocks and not system.f_bavail:
        return OutputFull(f"{path} cannot be written: no space left", unfit=True)
    if not os.access(folder, os.W_OK | os.X_OK):
        return OutputForbidden(f"{path} may not be written: permission denied for {folder}")
    return None
