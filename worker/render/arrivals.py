"""Arrivals: engine sets come to the device when their turn begins, in place of others where they do not all fit."""

from __future__ import annotations

import structlog

from jobs.errors import OutOfMemory, RenderFailed, Requeued
from worker.render.denoisers import Denoisers
from worker.render.device import translated_errors
from worker.render.errors import DeviceLost, DeviceOutOfMemory
from worker.render.request import BucketKey
from worker.render.scheduler import Scheduler

log = structlog.get_logger(__name__)

TOO_LARGE = "the engine set does not fit in the device's memory by itself; set RENDER_LOW_VRAM=1 ({error})"


class Arrivals:
    """Brings engine sets to the device. Used by the loop's thread only."""

    def __init__(self, denoisers: Denoisers, scheduler: Scheduler) -> None:
        self._denoisers = denoisers
        self._scheduler = scheduler

    def bring_in(self, engine_set: str) -> bool:
        """Have the set on the device. False if it cannot be loaded: then its requests have ended.

        A set that leaves because memory is shorter than expected may have requests that run. They keep their latents
        and go on when it is back.

        Raises:
            DeviceLost: after the set's requests were requeued.
        """
        if self._denoisers.is_loaded(engine_set):
            return True
        try:
            for other in self._scheduler.leaving():
                self._unload(other)
            self._load(engine_set)
        except DeviceOutOfMemory as error:
            self._scheduler.fail_set(engine_set, OutOfMemory(TOO_LARGE.format(error=error)))
        except DeviceLost:
            # Not blameless: a set whose loading takes the device down would do so in every worker, for ever.
            self._scheduler.fail_set(engine_set, Requeued("the device is lost", blameless=False))
            raise
        except Exception as error:
            log.exception("engine_set_not_loaded", engine_set=engine_set)
            reason = f"the engine set {engine_set[:12]} could not be loaded: {type(error).__name__}: {error}"
            self._scheduler.fail_set(engine_set, RenderFailed(reason))
        else:
            return True
        return False

    def make_room(self, engine_set: str, *, bucket: BucketKey | None = None) -> bool:
        """Memory does not suffice for this set, or a sample of it, beside the others: one of them leaves.

        False if there is no other, or if it was of no use a short while ago that the others left for such a sample.
        """
        other = self._scheduler.shrink(engine_set, bucket=bucket)
        if other is None:
            return False
        log.warning("fewer_sets_fit", engine_set=engine_set, leaves=other)
        self._unload(other)
        return True

    def _load(self, engine_set: str) -> None:
        """Load a set; where memory does not suffice, the others leave one by one."""
        while True:
            try:
                with translated_errors():
                    self._denoisers.load(engine_set)
            except DeviceOutOfMemory:
                if not self.make_room(engine_set):
                    raise
            else:
                self._scheduler.arrived(engine_set)
                seconds = round(self._denoisers.reload_seconds(engine_set), 3)
                log.info("engine_set_loaded", engine_set=engine_set, seconds=seconds)
                return

    def _unload(self, engine_set: str) -> None:
        reload_seconds = round(self._denoisers.reload_seconds(engine_set), 3)
        ended_by = self._scheduler.end_of_turn(engine_set)
        with translated_errors():
            self._denoisers.unload(engine_set)
        seconds = round(self._scheduler.left(engine_set), 3)
        log.info(
            "engine_set_unloaded",
            engine_set=engine_set,
            turn_seconds=seconds,
            reload_seconds=reload_seconds,
            ended_by=ended_by,
        )
