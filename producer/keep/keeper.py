"""Keeper: the duties of `producer keep`. They look, take back what dead workers hold, and reconcile all batches."""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from jobs.http_server import Verdict
from jobs.ledger.reconcile import Reconciled, reconcile, take_back
from producer.keep.board import Board
from producer.keep.duty import Duty, Sleep, Work
from producer.keep.observation import observe
from producer.keep.paces import Paces
from producer.prune import prune
from producer.session import Session

log = structlog.get_logger(__name__)

TURN_SECONDS = 180.0  # longer than a look or a quick pass takes, whatever the batches' size
WHOLE_PASS_SECONDS = 3600.0  # a million jobs take half a minute
VIEWED_PAUSE_SECONDS = 2.0  # between two looks while a browser shows the page
PRUNE_SECONDS = 3600.0
STOP_SECONDS = 1.0  # for turns under way


class Keeper:
    """Starts, watches and ends the duties. Several processes may keep the same Redis: every repair is atomic."""

    def __init__(self, session: Session, board: Board, paces: Paces) -> None:
        self._session = session
        self._board = board
        self._paces = paces
        # For quick and for whole passes: batch -> why it could not be reconciled.
        self._failing: dict[bool, dict[str, str]] = {False: {}, True: {}}
        self._not_pruned: str | None = None  # why old batches were not deleted
        self._duties = [Duty(work) for work in self._works()]

    def start(self) -> None:
        """Start all duties, each in a thread of its own."""
        for duty in self._duties:
            duty.start()

    def stop(self) -> None:
        """End within about a second. A turn under way may be cut off: each of its steps is atomic."""
        for duty in self._duties:
            duty.stop()
        until = time.monotonic() + STOP_SECONDS
        for duty in self._duties:
            duty.join(max(0.0, until - time.monotonic()))

    def live(self) -> Verdict:
        """False if only a restart helps. It stays true while Redis is away."""
        troubles = [trouble for duty in self._duties if (trouble := duty.trouble()) is not None]
        return Verdict(not troubles, "; ".join(troubles) or "alive")

    def ready(self) -> Verdict:
        """Whether Redis answered when it was asked last."""
        return Verdict(self._board.redis.is_up, self._board.redis.why)

    def _works(self) -> list[Work]:
        settings = self._session.settings
        works = [
            Work("observe", self._observe, self._look_pause, self._note_away, TURN_SECONDS),
            Work("take back", self._take_back, self._pass_pause, self._note_failed, TURN_SECONDS),
            Work("reconcile", self._reconcile, self._pass_pause, self._note_failed, WHOLE_PASS_SECONDS),
        ]
        if settings.keep_days is not None:
            works.append(Work("prune", self._prune, lambda: PRUNE_SECONDS, self._note_not_pruned, WHOLE_PASS_SECONDS))
        return works

    def _observe(self, _: Sleep) -> None:
        was_up = self._board.redis.is_up
        self._board.note_look()
        seen = observe(self._session.ledger, with_in_flight=self._board.is_viewed)
        self._paces.note(seen)
        self._board.note(seen)
        if not was_up:
            log.info("redis_answers")

    def _pass_pause(self) -> float:
        return self._session.settings.reconcile_seconds

    def _look_pause(self) -> float:
        pause = self._session.settings.reconcile_seconds
        return min(pause, VIEWED_PAUSE_SECONDS) if self._board.is_viewed else pause

    def _note_away(self, why: str) -> None:
        if self._board.note_away(why):
            log.warning("redis_away", error=why, consequence="it is asked again until it answers")

    def _take_back(self, sleep: Sleep) -> None:
        self._pass(take_back, sleep, whole=False)

    def _reconcile(self, sleep: Sleep) -> None:
        self._pass(reconcile, sleep, whole=True)

    def _pass(self, repair: Callable[..., Reconciled], sleep: Sleep, *, whole: bool) -> None:
        begun = time.monotonic()
        repaired = repair(self._session.ledger, lease_seconds=self._session.settings.lease_seconds, sleep=sleep)
        self._board.note_pass(repaired, whole=whole, seconds=time.monotonic() - begun)
        self._report(repaired, whole=whole)

    def _report(self, repaired: Reconciled, *, whole: bool) -> None:
        if repaired.restored:
            log.warning("jobs_taken_back", jobs=repaired.restored, reason="their workers died")
        if repaired.requeued:
            log.warning("jobs_requeued", jobs=repaired.requeued, reason="their messages were lost")
        for batch, why in repaired.failures.items():
            if self._failing[whole].get(batch) != why:
                log.error("batch_not_reconciled", batch=batch, error=why, consequence="the other batches are")
        self._failing[whole] = dict(repaired.failures)

    def _note_failed(self, why: str) -> None:
        self._board.note_failure()
        log.debug("pass_failed", error=why)

    def _prune(self, _: Sleep) -> None:
        days = self._session.settings.keep_days
        assert days is not None
        deleted = prune(self._session.ledger, older_than_days=days)
        self._not_pruned = None
        if deleted:
            log.info("batches_pruned", batches=deleted, older_than_days=days)

    def _note_not_pruned(self, why: str) -> None:
        if why != self._not_pruned:
            log.warning("not_pruned", error=why, consequence="it is tried again")
        self._not_pruned = why
