"""`producer submit`: check all rows, enqueue the good ones, say what happened.

A row's way: `check` reads it from the CSV, and `CheckedRows` keeps it until all rows are checked. Then `jobs_of` makes
a job of it, and `_enqueue` enters that into the ledger, a chunk at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from jobs.errors import LedgerUnavailable, RenderError
from jobs.job import RenderJob, RenderParameters
from jobs.ledger.chunks import chunks
from jobs.ledger.enqueue import enqueue
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo
from jobs.ledger.sidecars import Sidecars
from jobs.storage.store import Store, store_for
from jobs.submission import SubmissionHead, SubmissionWriter
from producer.console import count, people, place, row_progress, say, write_json
from producer.exits import CommandFailed, Exit
from producer.session import Session, open_session
from producer.submission import Outcome, Request
from producer.table.check import LOOKED_FOR, CheckedRows, check

GO_ON = "What is enqueued stays; submit the same file to the same batch again, and the rest follows."


def submit(file: Path, *, batch: str | None, output: str | None, skip_invalid: bool, dry_run: bool, wait: bool) -> Exit:
    """Run the command; prints, and returns the exit code.

    Raises:
        CommandFailed, RenderError, OSError: each becomes its number in exits.py.
    """
    session = open_session()
    request = Request.resolve(
        session.settings,
        file=file,
        batch=batch,
        output=output,
        skip_invalid=skip_invalid,
        dry_run=dry_run,
        wait=wait,
    )
    outcome = _check_and_enqueue(request, session)
    summary = outcome.as_dict(request)
    is_refused = outcome.is_refused(request)
    if wait and not (is_refused or dry_run):
        return _wait(session, request.batch, summary)
    write_json(summary)
    return Exit.INVALID_CSV if is_refused else Exit.OK


def _check_and_enqueue(request: Request, session: Session) -> Outcome:
    outcome = Outcome()
    begun = time.monotonic()
    with CheckedRows() as rows:
        _check(request, outcome, rows)
        _report_check(request, outcome)
        if outcome.is_refused(request):
            return outcome
        if request.dry_run:
            say(f"{count(outcome.good, 'job')} would go to batch {request.batch!r}; nothing was enqueued (--dry-run)")
            return outcome
        request.check_unchanged()
        if outcome.good:
            _enqueue(rows, request, outcome, session)
            request.check_unchanged()
    outcome.seconds = time.monotonic() - begun
    _report_enqueued(request, outcome)
    return outcome


def jobs_of(rows: Iterable[tuple[int, RenderParameters]], request: Request) -> Iterator[RenderJob]:
    """The jobs that checked rows become, in row order."""
    for row, parameters in rows:
        yield RenderJob.create(parameters, batch=request.batch, row=row, output=request.output)


def _check(request: Request, outcome: Outcome, rows: CheckedRows) -> None:
    with row_progress("Checking") as tick, closing(check(request, outcome)) as good_rows:
        for row, parameters in good_rows:
            if not request.dry_run:
                rows.add(row, parameters)
            tick(outcome.rows)


def _enqueue(rows: CheckedRows, request: Request, outcome: Outcome, session: Session) -> None:
    """Enter the jobs that the ledger does not know, and keep all of them in the manifest."""
    ledger, store = session.ledger, store_for(request.output)
    is_new = ledger.batch(request.batch) is None
    info = ledger.open_batch(request.batch, output=request.output, source=request.origin)
    _check_same_batch(info, request)
    row_prefix = info.row_prefix(request.origin)
    manifest = _Manifest(store, request)
    known_to_storage = _recovery(ledger, info, store, is_new=is_new, settle_seconds=session.settings.heartbeat_seconds)
    through = 0
    try:
        with known_to_storage as sidecars, row_progress("Enqueueing", outcome.good) as tick:
            for jobs in chunks(jobs_of(rows, request)):
                outcome.enqueued += enqueue(ledger, jobs, row_prefix=row_prefix, sidecars=sidecars).enqueued
                manifest.add(jobs)
                through += len(jobs)
                tick(through)
        manifest.close()
        outcome.manifest_files = manifest.files
    except KeyboardInterrupt:
        say(f"Stopped. {GO_ON}", "warning")
        raise
    except LedgerUnavailable as error:
        raise CommandFailed(Exit.NO_REDIS, f"{error}\n{GO_ON}") from error


def _check_same_batch(info: BatchInfo, request: Request) -> None:
    if info.output != request.output:
        raise CommandFailed(
            Exit.USAGE,
            f"batch {info.name!r} writes to {place(info.output)}, not to {place(request.output)}; "
            "name the same --output, or another --batch",
        )
    if info.source != request.origin:
        say(f"batch {info.name!r} was begun from {place(info.source)}; the rows of this file join it", "warning")


class _Manifest:
    """Keeps every submitted job beside the results. This machine may not be able to write there: that is said, once."""

    def __init__(self, store: Store, request: Request) -> None:
        head = SubmissionHead(batch=request.batch, source=request.origin, submitted_at=time.time())
        self._output = request.output
        self._writer: SubmissionWriter | None = SubmissionWriter(store, request.output, head)

    @property
    def files(self) -> int | None:
        """How many files were written; None where storage could not be reached."""
        return None if self._writer is None else self._writer.parts

    def add(self, jobs: Sequence[RenderJob]) -> None:
        if self._writer is not None:
            with self._giving_up():
                self._writer.add(jobs)

    def close(self) -> None:
        """Write the last file."""
        if self._writer is not None:
            with self._giving_up():
                self._writer.close()

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        try:
            yield
        except RenderError as error:
            self._writer = None
            say(
                f"The manifest could not be written to {place(self._output)}: {error}. The batch goes on; should Redis "
                "lose its data, it can be brought back by submitting this file again, not by producer reconcile.",
                "warning",
            )


@contextmanager
def _recovery(
    ledger: Ledger, info: BatchInfo, store: Store, *, is_new: bool, settle_seconds: float
) -> Iterator[Sidecars | None]:
    """Around the enqueueing: where to look for finished jobs, or None where the ledger knows them all.

    The ledger is marked as being rebuilt until the block ends, so that a submission that was cut short continues in the
    same way. `settle_seconds` is how long live workers may take to report the jobs that they hold.
    """
    if is_new and _storage_knows(store, f"{info.output}/{info.name}"):
        ledger.begin_rebuilding(info.name)
        say(f"{place(info.output)}/{info.name} has files that this Redis knows nothing of: what is done is not redone")
        time.sleep(settle_seconds)
    elif not ledger.is_rebuilding(info.name):
        yield None
        return
    with Sidecars(store) as sidecars:
        yield sidecars
    ledger.end_rebuilding(info.name)


def _storage_knows(store: Store, folder: str) -> bool:
    """Whether there is anything in a batch's folder; False where storage does not answer."""
    with suppress(RenderError):
        return any(True for _ in store.names(folder))
    return False


def _wait(session: Session, batch: str, summary: dict[str, object]) -> Exit:
    from producer.engine_sets import engine_sets_record
    from producer.watch import watch_to_end

    end = watch_to_end(session, batch)
    ended = {"counts": end.counts.model_dump(), **engine_sets_record(end.engine_sets), "failures": end.failures}
    write_json(summary | ended)
    return end.exit_code


def _report_check(request: Request, outcome: Outcome) -> None:
    console = people()
    for remark in outcome.remarks:
        say(f"{request.name}: {remark}", console=console)
    for problem in outcome.problems:
        say(problem.sentence(request.name), "error", console)
    hidden = outcome.problem_count - len(outcome.problems)
    if hidden:
        say(f"... and {count(hidden, 'more problem', 'more problems')}", "error", console)
    if outcome.absent:
        line, path = outcome.first_absent or (0, "")
        say(
            f"{count(outcome.absent, 'picture')} named in the first {count(min(outcome.rows, LOOKED_FOR), 'row')} "
            f"cannot be found on this machine (line {line}: {path}); jobs whose worker cannot find theirs will fail",
            "warning",
            console,
        )
    _report_verdict(request, outcome)


def _report_verdict(request: Request, outcome: Outcome) -> None:
    if outcome.unreadable:
        say("Nothing was enqueued.", "error")
    elif outcome.is_refused(request):
        bad = f"{count(outcome.problem_count, 'problem')} in {count(outcome.rejected, 'row')} of {outcome.rows:,}"
        say(f"{bad}; nothing was enqueued. Correct the file, or leave these rows out with --skip-invalid.", "error")
    elif outcome.rejected:
        say(
            f"{count(outcome.rejected, 'row')} of {outcome.rows:,} left out, written with the reasons to "
            f"{request.rejected_to}. "
            f"Correct them in {request.name} itself and submit it again: only they are new then.",
            "warning",
        )
    elif not outcome.rows:
        say(f"{request.name} has a header and no rows: there is nothing to do", "warning")


def _report_enqueued(request: Request, outcome: Outcome) -> None:
    enqueued = outcome.enqueued
    known = [f"{number:,} {state}" for state, number in outcome.already.items() if number]
    were = f"; there already: {', '.join(known)}" if known else ""
    say(f"{count(enqueued.added, 'job')} enqueued in batch {request.batch!r}{were}", "good")
    if enqueued.recovered:
        say(f"{count(enqueued.recovered, 'job')} found finished in storage and recorded as done", "good")
    if enqueued.replaced:
        say(f"{count(enqueued.replaced, 'earlier version')} of corrected rows superseded", "warning")
    if enqueued.failed + enqueued.cancelled:
        say(f"Failed and cancelled jobs stay so until you ask: producer retry {request.batch}")
    if not request.wait and enqueued.added:
        say(f"Follow it with: producer status {request.batch} --watch")
