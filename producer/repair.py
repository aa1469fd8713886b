"""`producer retry`, `cancel` and `reconcile`: the moves that a person may ask of the ledger."""

from __future__ import annotations

from jobs.reconcile import reconcile as reconcile_pass
from producer.console import count, say, write_json
from producer.exits import CommandFailed, Exit
from producer.session import open_session

RETRIED = ("failed", "cancelled")


def retry(batch: str, *, only: str | None) -> Exit:
    """Queue failed and cancelled jobs again."""
    session = open_session()
    session.batch(batch)
    states = RETRIED if only is None else (only,)
    queued = session.ledger.retry(batch, states=states)
    say(f"{count(queued, 'job')} of batch {batch!r} queued again" if queued else f"no {' or '.join(states)} job there")
    write_json({"batch": batch, "queued": queued})
    return Exit.OK


def cancel(batch: str, job_id: str | None) -> Exit:
    """End what is queued at once, and what is running at its next step.

    Raises:
        CommandFailed: no such batch or job.
    """
    session = open_session()
    session.batch(batch)
    if job_id is not None and session.ledger.state(batch, job_id) is None:
        raise CommandFailed(Exit.NOT_FOUND, f"batch {batch!r} has no job {job_id!r}")
    found = session.ledger.cancel(batch, job_id)
    stopping = f"; {found.running:,} running will stop at their next step" if found.running else ""
    say(f"{count(found.queued, 'job')} cancelled{stopping}")
    write_json({"batch": batch, "cancelled": found.queued, "stopping": found.running})
    return Exit.OK


def reconcile(batch: str | None) -> Exit:
    """Put back what died with its worker or was lost on the way."""
    session = open_session()
    if batch is not None:
        session.batch(batch)
    repaired = reconcile_pass(session.ledger, batch=batch, lease_seconds=session.settings.lease_seconds)
    say(
        f"{count(repaired.restored, 'job')} taken back from workers that died, "
        f"{count(repaired.requeued, 'lost message')} queued again"
    )
    write_json({"batch": batch, "restored": repaired.restored, "requeued": repaired.requeued})
    return Exit.OK
