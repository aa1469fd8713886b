"""LearntSizes: what this worker stepped at, for those that start after it; and what others did, for this one.

A worker that starts asks its loop to prepare the device for the most used sizes. They come from a file in
RENDER_CACHE_DIR, where that is set, and from the ledger, which all workers of a queue share.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import redis
import structlog

from jobs.errors import LedgerUnavailable
from jobs.ledger.ledger import Ledger
from jobs.ledger.sizes import StepSize, most_used, weight
from worker.render.request import BucketKey
from worker.sizes_file import SizesFile

if TYPE_CHECKING:
    from worker.render.loop import RenderLoop

log = structlog.get_logger(__name__)

PUBLISH_SECONDS = 30.0
STOP_SECONDS = 5.0
# A worker prepares at most so many sizes before it has stepped at them, and none that is used less than so much.
MOST = 32
LEAST_SHARE = 0.005

Weights = dict[StepSize, float]


class LearntSizes:
    """A thread that reads once, and then writes what is new now and then; none runs where no size costs anything."""

    def __init__(
        self,
        loop: RenderLoop,
        ledger: Ledger,
        *,
        machines: Mapping[str, str],
        cache_dir: str | None,
        now: Callable[[], float] | None = None,
    ) -> None:
        """`machines`: the card and the libraries of each engine set whose sizes cost something, by its digest.

        `now` gives seconds since the epoch; without it, that is Redis' clock.
        """
        self._loop = loop
        self._ledger = ledger
        root = None if cache_dir is None else Path(cache_dir)
        self._files = {} if root is None else {one: SizesFile(root, one, machine) for one, machine in machines.items()}
        self._sets = tuple(machines)
        self._now = self._time if now is None else now
        self._counted: dict[tuple[BucketKey, int], int] = {}  # sample-steps, at the last time
        self._own: dict[str, Weights] = {one: {} for one in self._sets}  # of this process's steps
        self._untold: dict[str, Weights] = {one: {} for one in self._sets}  # of them, what the ledger does not know
        self._unwritten: set[str] = set()  # sets whose file lacks something
        self._failing: set[str] = set()  # sets whose file could not be written the last time
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sizes", daemon=True)

    def start(self) -> None:
        """Begin, if there is anything to learn."""
        if self._sets:
            self._thread.start()

    def stop(self) -> None:
        """Write what is new, and end the thread."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(STOP_SECONDS)

    def read(self) -> None:
        """Ask the loop to prepare for what was used lately."""
        known = {one: _larger(self._from_file(one), self._from_ledger(one)) for one in self._sets}
        found = [(size, number, one) for one, weights in known.items() for size, number in weights.items()]
        least = LEAST_SHARE * sum(number for _, number, _ in found)
        found.sort(key=lambda each: -each[1])
        keys = [
            (BucketKey(one, size.height, size.width, size.tokens), size.batch)
            for size, number, one in found[:MOST]
            if number >= least
        ]
        if keys:
            log.info("sizes_learnt", sizes=[f"{key.height}x{key.width} x {batch}" for key, batch in keys])
            self._loop.warm_up(keys)

    def write(self) -> None:
        """Add what was stepped since the last time to the ledger and the files. Raises nothing that they raise."""
        for engine_set, used in self._new().items():
            for weights in (self._own[engine_set], self._untold[engine_set]):
                weights |= {size: weights.get(size, 0.0) + number for size, number in used.items()}
            self._unwritten |= {engine_set} & self._files.keys()
        for engine_set in self._sets:
            if self._untold[engine_set]:
                self._tell(engine_set)
            if engine_set in self._unwritten:
                self._save(engine_set)

    def forget(self, engine_set: str) -> None:
        """Preparing for one of a set's sizes lost the device. No worker is to try again before a job asks for it."""
        if engine_set in self._files:
            with _saying_what_is_not_forgotten():
                self._files[engine_set].path.unlink(missing_ok=True)
        with _saying_what_is_not_forgotten():
            self._ledger.forget_sizes(engine_set)

    def _run(self) -> None:
        try:
            self.read()
            while not self._stop.wait(PUBLISH_SECONDS):
                self.write()
            self.write()
        except Exception:  # the worker renders without it
            log.exception("sizes_not_kept", consequence="workers that start later learn nothing from this one")

    def _new(self) -> dict[str, Weights]:
        """By set, the weights of what was stepped since the last time."""
        in_use = {each: number for each, number in self._loop.sizes_in_use().items() if each[0].engine_set in self._own}
        more = {each: number - self._counted.get(each, 0) for each, number in in_use.items()}
        self._counted |= in_use
        new: dict[str, Weights] = defaultdict(dict)
        if any(more.values()):
            now = self._now()
            for (key, batch), samples in more.items():
                if samples > 0:
                    size = StepSize(key.height, key.width, key.tokens, batch)
                    new[key.engine_set][size] = weight(samples, at=now)
        return new

    def _time(self) -> float:
        """Redis' clock, which all workers share; this machine's, where Redis does not answer.

        A worker that weighs by a clock of its own, and whose clock is a year ahead, would outweigh all others.
        """
        try:
            return self._ledger.server_time()
        except (LedgerUnavailable, redis.RedisError):
            return time.time()

    def _tell(self, engine_set: str) -> None:
        try:
            self._ledger.note_sizes(engine_set, self._untold[engine_set])
        except (LedgerUnavailable, redis.RedisError) as error:
            log.warning("sizes_not_noted", error=str(error), consequence="they are noted with the next ones")
        else:
            self._untold[engine_set].clear()

    def _save(self, engine_set: str) -> None:
        file = self._files[engine_set]
        try:
            file.write(self._own[engine_set])
        except OSError as error:
            if engine_set not in self._failing:  # once, and not every half minute
                log.warning("sizes_not_written", file=str(file.path), error=str(error))
            self._failing.add(engine_set)
        else:
            self._failing.discard(engine_set)
            self._unwritten.discard(engine_set)

    def _from_file(self, engine_set: str) -> Weights:
        return self._files[engine_set].read() if engine_set in self._files else {}

    def _from_ledger(self, engine_set: str) -> Weights:
        try:
            return self._ledger.sizes(engine_set)
        except (LedgerUnavailable, redis.RedisError) as error:
            log.warning("sizes_not_read", error=str(error), consequence="the device is prepared as jobs come")
            return {}


@contextmanager
def _saying_what_is_not_forgotten() -> Iterator[None]:
    try:
        yield
    except (LedgerUnavailable, redis.RedisError, OSError) as error:
        log.warning("sizes_not_forgotten", error=str(error), consequence="the next worker may lose its device too")


def _larger(one: Weights, other: Weights) -> Weights:
    """Both are of the same steps, unless a disk or a Redis was new."""
    both = {size: max(one.get(size, 0.0), other.get(size, 0.0)) for size in {**one, **other}}
    return most_used((size.text, number) for size, number in both.items())
