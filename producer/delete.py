"""`producer delete`: a batch leaves the ledger, and with --results its files leave the output.

Files go first and the ledger last: a deletion that was killed or refused is repeated with the same command, which knows
the batch's jobs as before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from jobs.errors import InvalidJob, LedgerUnavailable, NewerMessage
from jobs.job import BATCH_NAME
from jobs.ledger.ledger import Ledger
from jobs.ledger.messages_of_batches import take_messages
from jobs.ledger.owners import Owners
from jobs.ledger.records import Counts
from jobs.ledger.redis_client import passing_over_damage
from jobs.storage.store import store_for
from producer.batch_files import BatchFiles
from producer.confirm import confirm
from producer.console import count, place, row_progress, say, write_json
from producer.exits import CommandFailed, Exit
from producer.session import Session, open_session
from producer.submission import output_uri

LOOK_SECONDS = 0.2  # between two looks whether workers have let go of a batch's jobs


class Deleted(NamedTuple):
    """How many jobs left the ledger, and what left the output: None without --results."""

    jobs: int
    files: BatchFiles | None


def delete(batch: str, *, results: bool, force: bool, yes: bool, output: str | None) -> Exit:
    """Delete a batch, after asking.

    Raises:
        CommandFailed: there is no such batch, its jobs have not ended, or the answer was not yes.
        RenderError: storage or Redis refuses, or does not answer. The same command goes on.
    """
    session = open_session()
    where = _output(session, batch, output, results=results)
    counts = _counts(session.ledger, batch)
    if not force:
        _check_ended(batch, counts)
    if not yes:
        confirm(_question(batch, counts, where, results=results), word=batch if results else None)
    deleted = delete_batch(session, batch, where if results else None, force=force)
    report(batch, deleted)
    if not results and deleted.jobs:
        say(f"Its files stay in {place(where)}/{batch}; producer reconcile {batch} brings it back from there.")
    write_json({"batch": batch, "jobs": deleted.jobs, "files": deleted.files and deleted.files.deleted})
    return Exit.OK


def delete_batch(
    session: Session,
    batch: str,
    output: str | None,
    *,
    force: bool = False,
    check: Callable[[], object] = lambda: None,
) -> Deleted:
    """Delete a batch: with an `output` its files there; then its messages, and all that the ledger has of it.

    `check` is called once nothing can be added to the batch any more and before anything is deleted; what it raises
    keeps the batch.

    Raises:
        CommandFailed: jobs of it have not ended, unless `force` cancels them; or another deletion of it was begun.
        RenderError: storage or Redis refuses, or does not answer.
    """
    ledger = session.ledger
    with _deletion(ledger, batch, output) as (files, token):
        counts = _counts(ledger, batch)
        if force:
            _stop(session, batch)
        else:
            _check_ended(batch, counts)
        check()
        take_messages(ledger, [batch], unfinished=force)
        if files is not None:
            with row_progress("Deleting files") as tick:
                files.delete(tick)
        verdict = ledger.forget(batch, token=token, unfinished=force)
        if verdict == "active":
            raise CommandFailed(Exit.USAGE, f"jobs of batch {batch!r} were queued meanwhile: its ledger stays")
        if verdict == "taken":
            raise _taken_over(batch)
    return Deleted(counts.total + counts.superseded, files)


def report(batch: str, deleted: Deleted) -> None:
    """Say what was deleted, and what was found that is not the batch's."""
    jobs, files = deleted
    what = count(jobs, "job") if files is None else f"{count(jobs, 'job')} and {count(files.deleted, 'file')}"
    say(f"batch {batch!r} deleted: {what}", "good")
    if files is None:
        return
    for uri in files.damaged:
        say(f"{place(uri)} could not be read: jobs that only it names were known by their sidecars", "warning")
    if files.foreign:
        say(f"{count(files.foreign, 'file')} in {place(files.folder)} did not come from its jobs: they stay", "warning")


@contextmanager
def _deletion(ledger: Ledger, batch: str, output: str | None) -> Iterator[tuple[BatchFiles | None, str]]:
    """Around a deletion: what deletes its files, and its token. On an error, one that deleted no file is given up."""
    files = None if output is None else _files(ledger, batch, output)
    begun = ledger.begin_deletion(batch)
    try:
        if files is not None:
            files.check = lambda: _check_goes_on(ledger, batch, begun.token)
            files.jobs_gone = lambda: ledger.note_files_gone(batch, begun.token)
            if not ledger.files_are_gone(batch):
                _check_files_are_here(ledger, files)
        yield files, begun.token
    except BaseException as error:
        is_begun = begun.resumes or (files is not None and files.deleted > 0)
        if not is_begun:
            with suppress(LedgerUnavailable):
                ledger.give_up_deletion(batch, begun.token)
        if isinstance(error, KeyboardInterrupt):
            how = "goes on with the same command" if is_begun else "has not begun"
            say(f"Stopped. The deletion of batch {batch!r} {how}.", "warning")
        raise


def _files(ledger: Ledger, batch: str, output: str) -> BatchFiles:
    if not BATCH_NAME.fullmatch(batch):  # it came from Redis, and must not lead to another folder
        raise CommandFailed(Exit.USAGE, f"{batch!r} is not a valid batch name, so it has no files")
    return BatchFiles(store_for(output), output, batch, known=_ids(ledger, batch))


def _ids(ledger: Ledger, batch: str) -> Iterator[str]:
    """The ids that the ledger knows. A damaged batch gives none: its manifest and sidecars name its files."""
    with passing_over_damage():
        yield from ledger.ids(batch)


def _check_goes_on(ledger: Ledger, batch: str, token: str) -> None:
    if not ledger.goes_on(batch, token):
        raise _taken_over(batch)


def _taken_over(batch: str) -> CommandFailed:
    return CommandFailed(
        Exit.USAGE, f"another producer delete has begun to delete batch {batch!r} since, and goes on with it"
    )


def _check_files_are_here(ledger: Ledger, files: BatchFiles) -> None:
    """A share that is not mounted, or a wrong bucket, must not cost the ledger, which knows what is there."""
    if _counts(ledger, files.batch).done and not files.any():
        raise CommandFailed(
            Exit.STORAGE,
            f"{place(files.folder)} holds no file of batch {files.batch!r}, which has done jobs: is it on another "
            "machine, or not mounted? Without --results, only the ledger is deleted. Nothing was deleted.",
        )


def _output(session: Session, batch: str, output: str | None, *, results: bool) -> str:
    """Where the batch's results are.

    Raises:
        CommandFailed: neither the ledger nor, with --results, the output knows the batch; or it writes elsewhere.
    """
    info = session.ledger.batch(batch)
    if info is not None and output is None:
        return info.output
    uri = output_uri(session.settings, output)
    if info is not None and uri != info.output:
        raise CommandFailed(
            Exit.USAGE, f"batch {batch!r} writes to {place(info.output)}, not to {place(uri)}; leave --output out"
        )
    if info is not None:
        return uri
    is_there = session.ledger.has_keys(batch)
    if results and BATCH_NAME.fullmatch(batch) and not is_there:
        is_there = BatchFiles(store_for(uri), uri, batch, known=()).any()
    if not is_there:
        session.batch(batch)  # says so if it does not exist
    return uri


def _counts(ledger: Ledger, batch: str) -> Counts:
    """The counts of a batch. Damaged ones count as one job that has not ended: only --force deletes such a batch."""
    counts = Counts(queued=1)
    with passing_over_damage():
        counts = ledger.counts(batch)
    return counts


def _check_ended(batch: str, counts: Counts) -> None:
    if unfinished := counts.unfinished:
        raise CommandFailed(
            Exit.USAGE,
            f"{count(unfinished, 'job')} of batch {batch!r} {'has' if unfinished == 1 else 'have'} not ended: wait, or "
            f"run producer cancel {batch} first (--force cancels and deletes). Nothing was deleted.",
        )


def _question(batch: str, counts: Counts, output: str, *, results: bool) -> str:
    jobs = count(counts.total, "job")
    if unfinished := counts.unfinished:
        jobs += f", {unfinished:,} of which {'has' if unfinished == 1 else 'have'} not ended"
    where = f"{place(output)}/{batch}"
    if results:
        return f"Delete batch {batch!r} ({jobs}) and its pictures in {where}?"
    return f"Delete batch {batch!r} ({jobs}) from Redis? Its pictures in {where} stay."


def _stop(session: Session, batch: str) -> None:
    """Cancel what has not ended, and wait until live workers have let go of it: they must not write files any more.

    A worker that does not answer is not waited for longer than its lease.
    """
    ledger, settings = session.ledger, session.settings
    # Jobs of a newer version, and those of a damaged batch, cannot be cancelled. They are forgotten all the same.
    with suppress(NewerMessage, InvalidJob), passing_over_damage():
        ledger.counts(batch)
        ledger.cancel(batch)
    deadline = time.monotonic() + settings.lease_seconds + settings.heartbeat_seconds
    in_flight = _in_flight(session, batch, ledger.ids(batch))
    while in_flight and time.monotonic() < deadline:
        time.sleep(LOOK_SECONDS)
        in_flight = _in_flight(session, batch, in_flight)
    if in_flight:
        say(f"workers still hold jobs of batch {batch!r}; what they write now stays in the output", "warning")


def _in_flight(session: Session, batch: str, ids: Iterable[str]) -> list[str]:
    """Those jobs that live workers have: also what they started since their last heartbeat, which does not name it."""
    in_flight: list[str] = []
    with passing_over_damage():
        lines = [line for line in session.ledger.states_of(batch, ids) if line.state == "running"]
        owners = Owners.of(session.ledger, session.settings.lease_seconds)
        in_flight = [line.id for line in lines if owners.hold(line)]
    return in_flight
