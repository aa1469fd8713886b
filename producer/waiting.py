"""Why queued jobs are not rendered yet: workers that refused them, and delays before they are tried again."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Refusal
from producer.console import count, printable, say

SHOWN_REASONS = 5


@dataclass(frozen=True)
class Reason:
    """What one worker, or all with the same settings, said of some jobs; `example` is the newest of their sentences."""

    jobs: int
    example: Refusal


@dataclass(frozen=True)
class Waiting:
    """Jobs of the queue whose time has not come (of all batches), and the reasons of one batch, most jobs first."""

    delayed: int = 0
    refused: int = 0
    reasons: tuple[Reason, ...] = ()


def waiting(ledger: Ledger, batch: str) -> Waiting:
    """What keeps the jobs of a batch waiting."""
    refusals = ledger.refusals(batch)
    by_reason: dict[tuple[str, str], list[Refusal]] = defaultdict(list)
    for of_job in refusals.values():
        for refusal in of_job:
            by_reason[refusal.by, refusal.kind].append(refusal)
    reasons = [Reason(len(said), max(said, key=lambda refusal: refusal.at)) for said in by_reason.values()]
    reasons.sort(key=lambda reason: (-reason.jobs, reason.example.by))
    return Waiting(ledger.delayed(), len(refusals), tuple(reasons))


def say_waiting(waits: Waiting) -> None:
    """Say it in a few lines; nothing where nothing waits."""
    if waits.refused:
        say(f"{count(waits.refused, 'job')} of this batch refused by workers, for faults of their own:", "warning")
    for reason in waits.reasons[:SHOWN_REASONS]:
        said = reason.example
        who = said.worker if said.by == said.worker else f"{said.worker} and others with its settings ({said.by[:12]})"
        say(f"  {count(reason.jobs, 'job')} by {printable(who)} ({said.kind}): {printable(said.text)}", "warning")
    if len(waits.reasons) > SHOWN_REASONS:
        say(f"  ... and {count(len(waits.reasons) - SHOWN_REASONS, 'more reason')}")
    if waits.delayed:
        verb = "waits" if waits.delayed == 1 else "wait"
        say(f"{count(waits.delayed, 'job')} of this queue {verb} a while before the next try", "warning")


def waiting_record(waits: Waiting) -> dict[str, object]:
    """What a batch waits for, as JSON output has it."""
    reasons = [
        {"jobs": reason.jobs, **reason.example.model_dump(include={"by", "worker", "kind", "text", "at"})}
        for reason in waits.reasons
    ]
    return {"delayed_in_queue": waits.delayed, "refused": waits.refused, "refusals": reasons}
