"""Making a batch again that the ledger lost, and saying what came of it."""

from __future__ import annotations

from dataclasses import asdict

from jobs.ledger.rebuild import Rebuilt, rebuild
from jobs.storage.store import store_for
from producer.console import count, place, say
from producer.session import Session


def make_again(session: Session, batch: str, output: str) -> Rebuilt | None:
    """Tell the ledger what storage knows of a batch; None where storage knows nothing.

    Raises:
        RenderError: storage or Redis does not answer.
    """
    settle = session.settings.heartbeat_seconds
    rebuilt = rebuild(session.ledger, batch, output=output, writer=store_for(output), settle_seconds=settle)
    if rebuilt is None:
        return None
    say(
        f"batch {batch!r} made again from {place(output)}/{batch}: {count(rebuilt.jobs, 'job')}, of which "
        f"{rebuilt.recovered:,} found done, {rebuilt.held:,} with a worker, {rebuilt.queued:,} queued",
        "good",
    )
    if rebuilt.withheld:
        say(
            f"{count(rebuilt.withheld, 'job')} cannot be queued: their URLs hold secrets, which storage does not keep. "
            "Submit the CSV again: only they are new then.",
            "warning",
        )
    for sentence in rebuilt.damaged:
        say(sentence, "error")
    return rebuilt


def rebuilt_record(batch: str, rebuilt: Rebuilt) -> dict[str, object]:
    """The same as JSON."""
    return {"batch": batch, **asdict(rebuilt)}
