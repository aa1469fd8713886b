"""`producer submit`: check all rows, enqueue the good ones, say what happened.

A row's way: `check` reads it from its source, and `CheckedRows` keeps it until all rows are checked. Then `jobs_of`
makes a job of it, and `_enqueue` enters that into the ledger, a chunk at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from jobs.errors import InvalidJob, LedgerUnavailable, RenderError
from jobs.job import RenderJob, RenderParameters
from jobs.ledger.chunks import chunks
from jobs.ledger.enqueue import enqueue
from jobs.ledger.records import BatchInfo, PromptOptions
from jobs.prompt_options import write_prompt_options
from jobs.storage.store import Store, store_for
from jobs.submission import SubmissionHead, SubmissionWriter
from producer.console import count, place, row_progress, say, write_json
from producer.engine_sets import say_who_holds, say_who_holds_model
from producer.exits import CommandFailed, Exit
from producer.kept_prompts import keep_prompts, prompts_to_keep
from producer.kept_rows import KeptRows
from producer.recovery import recovery
from producer.session import Session, open_session
from producer.submission import Outcome, Request
from producer.submit_report import report_check, report_enqueued
from producer.table.check import CheckedRows, check


def submit(
    file: Path | str,
    *,
    batch: str | None,
    output: str | None,
    defaults: Mapping[str, str | None] | None = None,
    engine_set: str | None = None,
    input_format: str | None = None,
    again: bool = False,
    skip_invalid: bool,
    dry_run: bool,
    wait: bool,
) -> Exit:
    """Run the command; prints, and returns the exit code. `defaults`: what empty cells mean, by column.

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
        defaults=defaults,
        engine_set=engine_set,
        input_format=input_format,
        again=again,
    )
    outcome = _check_and_enqueue(request, session)
    summary = outcome.as_dict(request)
    code = outcome.exit_code(request)
    if wait and code is Exit.OK and not dry_run:
        return _wait(session, request.batch, summary)
    write_json(summary)
    return code


def _check_and_enqueue(request: Request, session: Session) -> Outcome:
    outcome = Outcome()
    begun = time.monotonic()
    with CheckedRows() as rows:
        _check(request, outcome, rows)
        report_check(request, outcome)
        if outcome.exit_code(request) is not Exit.OK:
            return outcome
        if request.dry_run:
            say(f"{count(outcome.good, 'job')} would go to batch {request.batch!r}; nothing was enqueued (--dry-run)")
            return outcome
        request.check_unchanged()
        if outcome.good:
            _enqueue(rows, request, outcome, session)
            request.check_unchanged()
    outcome.seconds = time.monotonic() - begun
    report_enqueued(request, outcome)
    if request.engine_set is not None and outcome.good:
        say_who_holds(session.ledger.workers().values(), request.engine_set)
    if (model := request.defaults.get("model")) is not None and outcome.good:
        say_who_holds_model(session.ledger.workers().values(), model)
    return outcome


def jobs_of(rows: Iterable[tuple[int, RenderParameters]], request: Request) -> Iterator[RenderJob]:
    """The jobs that checked rows become, in row order."""
    for row, parameters in rows:
        yield RenderJob.create(
            parameters, batch=request.batch, row=row, output=request.output, engine_set=request.engine_set
        )


def _check(request: Request, outcome: Outcome, rows: CheckedRows) -> None:
    with row_progress("Checking") as tick, closing(check(request, outcome)) as good_rows:
        for row, parameters in good_rows:
            if not request.dry_run:
                rows.add(row, parameters)
            tick(outcome.rows)


def _enqueue(rows: CheckedRows, request: Request, outcome: Outcome, session: Session) -> None:
    """Enter the jobs that the ledger does not know, and keep all of them in the manifest."""
    ledger, store = session.ledger, store_for(request.output)
    known = ledger.batch(request.batch)
    request = request.joined_to(None if known is None else known.source)
    options = prompts_to_keep(ledger, store, known, request)  # before the batch is entered: it may be refused
    if known is None:  # first, so that an interrupt from here on does not hide what storage knows from the next try
        ledger.begin_rebuilding(request.batch)
    try:
        info = ledger.open_batch(request.batch, output=request.output, source=request.origin)
    except InvalidJob as error:
        ledger.end_rebuilding(request.batch)
        raise CommandFailed(Exit.USAGE, str(error)) from error
    _check_same_batch(info, request)
    options = keep_prompts(ledger, options, request)
    request = replace(request, engine_set=options.prompts.get("engine_set"))
    ledger.note_row_prefixes(info)
    row_prefix = info.row_prefix(request.origin)
    manifest = _Manifest(store, request)
    known_to_storage = recovery(ledger, info, store, settle_seconds=session.settings.heartbeat_seconds)
    through = 0
    try:
        with known_to_storage as sidecars, row_progress("Enqueueing", outcome.good) as tick:
            manifest.begin(options)
            for jobs in _kept(rows, request, store, manifest):
                outcome.enqueued += enqueue(ledger, jobs, row_prefix=row_prefix, sidecars=sidecars).enqueued
                through += len(jobs)
                tick(through)
        manifest.close()
        if outcome.enqueued.replaced:
            ledger.sift(request.batch)  # the messages of the earlier versions
        outcome.manifest_files = manifest.files
    except KeyboardInterrupt:
        say(f"Stopped. {_go_on(request)}", "warning")
        raise
    except LedgerUnavailable as error:
        raise CommandFailed(Exit.NO_REDIS, f"{error}\n{_go_on(request)}") from error


def _kept(rows: CheckedRows, request: Request, store: Store, manifest: _Manifest) -> Iterator[list[RenderJob]]:
    """The jobs of all rows, some at a time. When the next ones are asked for, these are kept in the manifest.

    All jobs of a folder are kept before the first one: a run that goes on after a kill must know the row of each
    picture.
    """
    kept = KeptRows(request, store)
    if request.is_folder:
        manifest.write(chunks(jobs_of(kept.number(rows), request)))
    for jobs in chunks(jobs_of(kept.number(rows), request)):
        yield jobs
        if not request.is_folder:
            manifest.add(jobs)


def _go_on(request: Request) -> str:
    return f"What is enqueued stays; submit the same file to the same batch again{request.again}, and the rest follows."


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
        self._request, self._store = request, store
        self._writer: SubmissionWriter | None = SubmissionWriter(store, request.output, head)

    @property
    def files(self) -> int | None:
        """How many files were written; None where storage could not be reached."""
        return None if self._writer is None else self._writer.parts

    def begin(self, options: PromptOptions) -> None:
        """Write what the options of the file are, before its jobs."""
        with self._giving_up():
            write_prompt_options(self._store, self._request.output, self._request.batch, options)

    def add(self, jobs: Sequence[RenderJob]) -> None:
        if self._writer is not None:
            with self._giving_up():
                self._writer.add(jobs)

    def write(self, all_jobs: Iterable[Sequence[RenderJob]]) -> None:
        """Write all that the manifest gets."""
        for jobs in all_jobs:
            self.add(jobs)
        self.close()

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
                f"The manifest could not be written to {place(self._request.output)}: {error}. The batch goes on; "
                "should Redis lose its data, it can be brought back by submitting this file again"
                f"{self._request.again}, not by producer reconcile.",
                "warning",
            )


def _wait(session: Session, batch: str, summary: dict[str, object]) -> Exit:
    from producer.engine_sets import engine_sets_record
    from producer.watch import watch_to_end

    end = watch_to_end(session, batch)
    ended = {"counts": end.counts.model_dump(), **engine_sets_record(end.engine_sets), "failures": end.failures}
    write_json(summary | ended)
    return end.exit_code
