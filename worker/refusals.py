"""Refusals: what becomes of a job that this worker cannot render, though another one may.

The ledger notes the refusal and queues the job again after a delay, at no attempt. Once every live worker has refused
it, the job fails with what each of them said. Two things differ for errors that are the rendering's own (RenderFailed,
OutOfMemory, whatever is unexpected): the attempt counts, and a worker that has met one leaves the job to others when it
comes back.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass

from jobs.errors import (
    EngineSetNotHeld,
    OutOfMemory,
    OutputForbidden,
    OutputFull,
    RenderError,
    RenderFailed,
    SourceForbidden,
    SourceNotFound,
    SourceUnavailable,
)
from jobs.job import RenderJob
from jobs.ledger.records import Refusal, Start, WorkerFacts
from worker.ledger_client import LedgerClient
from worker.result import described

COUNTED = (RenderFailed, OutOfMemory)
# Cheap to find out again, and they may have been mended meanwhile.
NOT_REMEMBERED = (SourceForbidden, SourceNotFound, OutputForbidden, OutputFull, EngineSetNotHeld)
# A worker that may not look at a picture, or has no room for one, says nothing about the job itself.
ABOUT_THE_WORKER = {error.kind for error in (SourceForbidden, OutputForbidden, OutputFull, EngineSetNotHeld)}
REMEMBERED = 10_000  # jobs
LOOK_FOR_A_FILE = 3  # workers, before it counts as missing
LEAVES_IT_TO_OTHERS = 5  # times that a job is given back unseen, before it is tried here again
LONGEST_TEXT = 300  # characters of one refusal in the sentence
SHOWN = 4  # different answers in the sentence


class RefusedBefore(RenderError):
    """This worker has refused the job already; the refusal says why."""

    kind = "refused_before"
    fault = "worker"

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.text)
        self.refusal = refusal


@dataclass(frozen=True)
class Failure:
    """Every live worker refused the job: the kind and the sentence that it fails with."""

    kind: str
    text: str


@dataclass
class _Memory:
    refusal: Refusal
    attempts: int  # of the job after the refusal; fewer at a later start mean that the user had it tried again
    skipped: int = 0


class Refusals:
    """This process's refusals. Safe to use from many threads."""

    def __init__(self, ledger: LedgerClient, *, max_attempts: int) -> None:
        self._ledger = ledger
        self._max_attempts = max_attempts
        self._lock = threading.Lock()
        self._memory: OrderedDict[str, _Memory] = OrderedDict()
        self._other_sets: OrderedDict[str, None] = OrderedDict()  # batches that want another engine set

    def check(self, job: RenderJob, start: Start) -> None:
        """Raise RefusedBefore if the job should be left to other workers this time."""
        with self._lock:
            memory = self._memory.get(job.id)
            if memory is None:
                return
            memory.skipped += 1
            if start.attempts <= memory.attempts or memory.skipped > LEAVES_IT_TO_OTHERS:
                del self._memory[job.id]
                return
        raise RefusedBefore(memory.refusal)

    def refuse(
        self, job: RenderJob, start: Start, error: Exception, *, facts: WorkerFacts, may_refund: bool = True
    ) -> Failure | None:
        """Give the job back with the reason. A Failure: no worker is left for it, and the caller records that."""
        refusal = error.refusal if isinstance(error, RefusedBefore) else self._refusal(error, facts)
        counted = not may_refund or not isinstance(error, RenderError) or isinstance(error, COUNTED)
        loud = not isinstance(error, EngineSetNotHeld) or self._is_first(job.batch)
        refused = self._ledger.refuse(job, refusal, facts=facts, refund=not counted, loud=loud)
        if refused.final or self._tried_enough(refusal, refused.refusals):
            self._forget(job)
            return failure(refused.refusals or (refusal,))
        if not isinstance(error, (RefusedBefore, *NOT_REMEMBERED)):
            self._remember(job, _Memory(refusal, start.attempts - (not counted)))
        return None

    def _is_first(self, batch: str) -> bool:
        """Whether this is the first job of a batch that wants another engine set: all of its jobs say the same."""
        with self._lock:
            is_first = batch not in self._other_sets
            self._other_sets[batch] = None
            while len(self._other_sets) > REMEMBERED:
                self._other_sets.popitem(last=False)
        return is_first

    def _tried_enough(self, refusal: Refusal, said: Iterable[Refusal]) -> bool:
        """A file that is nowhere, or a host that is away for good, is not tried by a hundred workers.

        Nor is the host tried for ever by one worker beside a paused one. One worker alone, however often it looked,
        does not prove a file missing: it may be the one whose share is not mounted, while the others are busy.
        """
        times = [each.times for each in said]
        if refusal.kind == SourceNotFound.kind:
            return len(times) >= min(self._max_attempts, LOOK_FOR_A_FILE)
        if refusal.kind != SourceUnavailable.kind:
            return False
        return len(times) >= self._max_attempts or sum(times) >= 2 * self._max_attempts

    def _refusal(self, error: Exception, facts: WorkerFacts) -> Refusal:
        kind, text = described(error)
        by_settings = isinstance(error, RenderError) and error.scope == "settings" and facts.settings
        worker = self._ledger.worker
        return Refusal(by=by_settings or worker, worker=worker, kind=kind, text=text, at=time.time())

    def _remember(self, job: RenderJob, memory: _Memory) -> None:
        with self._lock:
            self._memory[job.id] = memory
            while len(self._memory) > REMEMBERED:
                self._memory.popitem(last=False)

    def _forget(self, job: RenderJob) -> None:
        with self._lock:
            self._memory.pop(job.id, None)


def failure(refusals: Iterable[Refusal]) -> Failure:
    """The kind that most refusals have, and one sentence with what each said, workers that said the same together.

    If some of the refusals are about the job itself, only their kinds count.
    """
    in_order = sorted(refusals, key=lambda refusal: refusal.at)
    workers: dict[str, list[Refusal]] = {}
    for refusal in in_order:
        workers.setdefault(refusal.text, []).append(refusal)
    if len(workers) == 1:
        return Failure(in_order[0].kind, in_order[0].text)
    said = [f"{_named(same)}: {_shortened(text)}" for text, same in list(workers.items())[:SHOWN]]
    more = f"; and {len(workers) - SHOWN} other answers" if len(workers) > SHOWN else ""
    of_the_job = [refusal for refusal in in_order if refusal.kind not in ABOUT_THE_WORKER]
    kind = Counter(refusal.kind for refusal in of_the_job or in_order).most_common(1)[0][0]  # the first of equals
    return Failure(kind, f"every live worker refused it: {'; '.join(said)}{more}")


def _named(refusals: list[Refusal]) -> str:
    """One worker for all, with its settings' digest where the refusal follows from them."""
    first = refusals[0]
    name = first.worker if first.by == first.worker else f"{first.worker} (settings {first.by})"
    return name if len(refusals) == 1 else f"{name} and {len(refusals) - 1} more"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"
