"""`producer retry`, `cancel` and `reconcile`: the moves that a person may ask of the ledger."""

from __future__ import annotations

from pathlib import Path

from jobs.ledger.rebuild import Rebuilt
from jobs.ledger.reconcile import reconcile as reconcile_pass
from jobs.storage.store import store_for
from jobs.uri import resolve_uri
from producer.console import count, say, write_json
from producer.enqueue import BATCH_NAME
from producer.exits import CommandFailed, Exit
from producer.rebuilding import make_again, rebuilt_record
from producer.session import Session, open_session

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


def reconcile(batch: str | None, *, output: str | None = None, from_storage: bool = False) -> Exit:
    """Put back what died with its worker or was lost on the way; make again what the ledger lost.

    Raises:
        CommandFailed: no such batch, in the ledger or in storage.
    """
    session = open_session()
    rebuilt = _rebuild(session, batch, output, from_storage=from_storage)
    if batch is not None:
        session.batch(batch)
    repaired = reconcile_pass(session.ledger, batch=batch, lease_seconds=session.settings.lease_seconds)
    say(
        f"{count(repaired.restored, 'job')} taken back from workers that died, "
        f"{count(repaired.requeued, 'lost message')} queued again"
    )
    record: dict[str, object] = {"batch": batch, "restored": repaired.restored, "requeued": repaired.requeued}
    if rebuilt:
        record["rebuilt"] = [rebuilt_record(name, found) for name, found in rebuilt.items()]
    write_json(record)
    return Exit.STORAGE if any(found.damaged for found in rebuilt.values()) else Exit.OK


def _rebuild(session: Session, batch: str | None, output: str | None, *, from_storage: bool) -> dict[str, Rebuilt]:
    """The batches that were made again, by name."""
    known = {info.name: info for info in session.ledger.batches()}
    if batch is None and not from_storage:
        if not known:
            say("This Redis knows no batch. If it lost its data: producer reconcile --from-storage", "warning")
        return {}
    uri = resolve_uri(session.settings.output_uri if output is None else output, Path.cwd()).rstrip("/")
    if batch is None:
        folders = (name.rstrip("/") for name in store_for(uri).names(uri) if name.endswith("/"))
        names = sorted({name for name in folders if BATCH_NAME.fullmatch(name)} | known.keys())
    else:
        wanted = batch not in known or from_storage or session.ledger.is_rebuilding(batch)
        names = [batch] if wanted and BATCH_NAME.fullmatch(batch) else []
    found = {name: make_again(session, name, known[name].output if name in known else uri) for name in names}
    return {name: rebuilt for name, rebuilt in found.items() if rebuilt is not None}
