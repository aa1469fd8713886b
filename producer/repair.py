"""`producer retry`, `cancel` and `reconcile`: a person changes what the ledger says of a batch."""

from __future__ import annotations

from dataclasses import asdict
from typing import NamedTuple

from jobs.errors import BatchDeleted, LedgerUnavailable, OutputForbidden, RenderError, SourceForbidden
from jobs.job import BATCH_NAME
from jobs.ledger.rebuild import Rebuilt
from jobs.ledger.rebuild import rebuild as rebuild_batch
from jobs.ledger.reconcile import reconcile as reconcile_pass
from jobs.storage.store import store_for
from producer.console import count, place, say, write_json
from producer.exits import CommandFailed, Exit
from producer.recovery import missing_right, say_unknown
from producer.row_defaults import SAME_OPTIONS
from producer.session import Session, open_session
from producer.submission import output_uri

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
    """Cancel queued jobs at once, and running ones at their next step.

    Raises:
        CommandFailed: no such batch or job.
    """
    session = open_session()
    session.batch(batch)
    if job_id is not None and session.ledger.state(batch, job_id) is None:
        raise CommandFailed(Exit.NOT_FOUND, f"batch {batch!r} has no job {job_id!r}")
    counts = session.ledger.cancel(batch, job_id)
    session.ledger.sift(batch)  # also what earlier versions of this program left in the queue
    stopping = f"; {counts.running:,} running will stop at their next step" if counts.running else ""
    say(f"{count(counts.queued, 'job')} cancelled{stopping}")
    write_json({"batch": batch, "cancelled": counts.queued, "stopping": counts.running})
    return Exit.OK


def reconcile(batch: str | None, *, output: str | None = None, from_storage: bool = False) -> Exit:
    """Queue jobs again whose worker died or whose message was lost; rebuild what the ledger lost.

    Of several batches, one that cannot be rebuilt does not keep the others back: it is said, and the first such failure
    gives the exit code.

    Raises:
        CommandFailed: no such batch, in the ledger or in storage; or an output that would not be looked at.
    """
    session = open_session()
    _check_output(session, batch, output, from_storage=from_storage)
    rebuilt, failure = _rebuild_lost(session, batch, output, from_storage=from_storage)
    if batch is not None:
        session.batch(batch)
    repaired = reconcile_pass(session.ledger, batch=batch, lease_seconds=session.settings.lease_seconds)
    say(
        f"{count(repaired.restored, 'job')} taken back from workers that died, "
        f"{count(repaired.requeued, 'lost message')} queued again"
    )
    for name, why in repaired.failures.items():
        say(f"batch {name!r} was not reconciled: {why}", "error")
    record: dict[str, object] = {"batch": batch, "restored": repaired.restored, "requeued": repaired.requeued}
    if rebuilt:
        record["rebuilt"] = [{"batch": name, **asdict(result)} for name, result in rebuilt.items()]
    write_json(record)
    if failure is not None:
        return failure
    if repaired.failures:
        return Exit.NO_REDIS
    return Exit.STORAGE if any(result.damaged or result.withheld for result in rebuilt.values()) else Exit.OK


def rebuild(session: Session, batch: str, output: str) -> Rebuilt | None:
    """Enter into the ledger what storage knows of a batch, and say so; None where storage knows nothing.

    Raises:
        CommandFailed: storage refuses to show the manifest.
        RenderError: storage or Redis does not answer.
    """
    settle = session.settings.heartbeat_seconds
    try:
        rebuilt = rebuild_batch(session.ledger, batch, output=output, store=store_for(output), settle_seconds=settle)
    except (SourceForbidden, OutputForbidden) as error:
        raise CommandFailed(
            Exit.STORAGE,
            f"whether {place(output)}/{batch} holds a manifest of batch {batch!r} is not known, so it cannot be made "
            f"again from there: {error}. {missing_right(output)} Or submit its CSV again{SAME_OPTIONS}.",
        ) from error
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
            f"Submit the CSV again{SAME_OPTIONS}: only they are new then.",
            "warning",
        )
    say_unknown(rebuilt.unknown, rebuilt.refusal, output, batch=batch)
    for sentence in rebuilt.damaged:
        say(sentence, "error")
    return rebuilt


def _check_output(session: Session, batch: str | None, output: str | None, *, from_storage: bool) -> None:
    """Refuse an output that would not be looked at."""
    if output is None:
        return
    if batch is None and not from_storage:
        raise CommandFailed(
            Exit.USAGE,
            "--output says where lost batches were written: add --from-storage to rebuild all that it holds, or name a "
            "batch",
        )
    info = None if batch is None else session.ledger.batch(batch)
    uri = output_uri(session.settings, output)
    if info is not None and uri != info.output:
        raise CommandFailed(
            Exit.USAGE, f"batch {batch!r} writes to {place(info.output)}, not to {place(uri)}; leave --output out"
        )


class _Lost(NamedTuple):
    """What was rebuilt, by batch, and the exit code of the first batch of several that could not be."""

    rebuilt: dict[str, Rebuilt]
    failure: Exit | None = None


def _rebuild_lost(session: Session, batch: str | None, output: str | None, *, from_storage: bool) -> _Lost:
    """Rebuild the named batch, or all batches of the output: those of which storage knows something."""
    known = {info.name: info for info in session.ledger.batches()}
    if batch is None and not from_storage:
        if not known:
            say("This Redis knows no batch. If it lost its data: producer reconcile --from-storage", "warning")
        return _Lost({})
    uri = output_uri(session.settings, output)
    if batch is None:
        names = _not_deleted(session, _batches_in(uri) - known.keys()) | _not_being_deleted(session, set(known))
        lost = _rebuild_each(session, {name: known[name].output if name in known else uri for name in sorted(names)})
        if not (lost.rebuilt or lost.failure):
            say(f"{place(uri)} holds no batch to rebuild; is that where the results are, and mounted?", "warning")
        return lost
    is_lost = batch not in known or from_storage or session.ledger.is_rebuilding(batch)
    if not is_lost or not BATCH_NAME.fullmatch(batch):
        return _Lost({})
    rebuilt = rebuild(session, batch, known[batch].output if batch in known else uri)
    return _Lost({} if rebuilt is None else {batch: rebuilt})


def _rebuild_each(session: Session, outputs: dict[str, str]) -> _Lost:
    """Rebuild batches by name, each from its output. One that cannot be rebuilt does not keep the others back.

    Raises:
        LedgerUnavailable: Redis does not answer, so no batch can be rebuilt.
    """
    rebuilt: dict[str, Rebuilt] = {}
    failure: Exit | None = None
    for name, output in outputs.items():
        try:
            result = rebuild(session, name, output)
        except LedgerUnavailable:
            raise
        except (CommandFailed, RenderError) as error:
            say(f"batch {name!r} was not rebuilt: {error}", "error")
            failure = _code_of(error) if failure is None else failure
        else:
            if result is not None:
                rebuilt[name] = result
    return _Lost(rebuilt, failure)


def _code_of(error: CommandFailed | RenderError) -> Exit:
    if isinstance(error, CommandFailed):
        return error.code
    return Exit.NOT_FOUND if isinstance(error, BatchDeleted) else Exit.STORAGE


def _not_being_deleted(session: Session, names: set[str]) -> set[str]:
    """Batches that Redis knows, without those whose deletion has begun: no job may be added to them."""
    deleting = {name for name in names if session.ledger.is_being_deleted(name)}
    for name in sorted(deleting):
        say(f"batch {name!r} is being deleted, so it is not rebuilt", "warning")
    return names - deleting


def _not_deleted(session: Session, names: set[str]) -> set[str]:
    """Batches that Redis does not know, without those that it does not know because they were deleted."""
    ledger = session.ledger
    deleted = {name for name in names if ledger.deleted_at(name) is not None or ledger.is_being_deleted(name)}
    for name in sorted(deleted):
        say(f"batch {name!r} was deleted and stays so; producer reconcile {name} brings it back", "warning")
    return names - deleted


def _batches_in(output: str) -> set[str]:
    """The names of the folders in an output that may be batches.

    Raises:
        CommandFailed: storage refuses to list them.
    """
    try:
        folders = {name.rstrip("/") for name in store_for(output).names(output) if name.endswith("/")}
    except (SourceForbidden, OutputForbidden) as error:
        raise CommandFailed(
            Exit.STORAGE,
            f"which batches {place(output)} holds is not known: {error}. {missing_right(output)} Or name the batch.",
        ) from error
    return {name for name in folders if BATCH_NAME.fullmatch(name)}
