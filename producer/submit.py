"""`producer submit`: check all rows, enqueue the good ones, say what happened."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import InvalidCsv, InvalidJob, LedgerUnavailable, OutputForbidden
from jobs.ledger.ledger import BatchInfo, Enqueued
from jobs.storage.store import store_for
from jobs.uri import redacted, resolve_uri
from producer.console import count, people, place, say, write_json
from producer.enqueue import BATCH_NAME, Destination, Target, batch_name, changed_sentence, enqueue
from producer.exits import CommandFailed, Exit
from producer.keeping import Manifest, recovery
from producer.progress import row_progress
from producer.session import Session, open_session
from producer.table.check import LOOKED_FOR, Checked, Source, check
from producer.table.rejected import rejected_path

STATES = ("queued", "running", "done", "failed", "cancelled")
GO_ON = "What is enqueued stays; submit the same file to the same batch again, and the rest follows."


@dataclass(frozen=True)
class Options:
    """What the command line said."""

    file: Path
    batch: str | None = None
    output: str | None = None
    skip_invalid: bool = False
    dry_run: bool = False
    wait: bool = False


def submit(options: Options) -> Exit:
    """Run the command; prints, and returns the exit code.

    Raises:
        CommandFailed, RenderError, OSError: each becomes its number in exits.py.
    """
    session = open_session()
    batch = _batch(options)
    with _source(options) as source:
        target = _target(options, batch, session)
        rejected_to = _rejected_path(options, batch) if options.skip_invalid else None
        before = _fingerprint(source)
        started = time.monotonic()
        with row_progress("Checking") as tick:
            checked = check(source, rejected_to=rejected_to, tick=tick)
        _report(source, checked, options)
        summary = _summary(source, target, checked, rejected_to)
        if checked.unreadable or (checked.rejected and not options.skip_invalid):
            write_json(summary | {"problems": [problem.as_dict() for problem in checked.problems]})
            return Exit.INVALID_CSV
        if options.dry_run:
            say(f"{count(checked.good, 'job')} would go to batch {batch!r}; nothing was enqueued (--dry-run)")
            write_json(summary | {"dry_run": True})
            return Exit.OK
        enqueued, parts = _enqueue(source, target, session, checked)
        if _fingerprint(source) != before:
            raise InvalidCsv(changed_sentence(source))
    seconds = time.monotonic() - started
    summary |= _enqueued_summary(enqueued, checked, seconds) | {"manifest_files": parts}
    _report_enqueued(batch, enqueued, options)
    if not options.wait:
        write_json(summary)
        return Exit.OK
    return _wait(session, batch, summary)


def _wait(session: Session, batch: str, summary: dict[str, object]) -> Exit:
    from producer.watch import report_end, report_failures, watch

    counts = watch(session, batch)
    failures = report_failures(session, batch, counts)
    report_end(session, batch, counts)
    write_json(summary | {"counts": counts.model_dump(), "failures": failures})
    return Exit.JOBS_FAILED if counts.failed + counts.cancelled else Exit.OK


@contextmanager
def _source(options: Options) -> Iterator[Source]:
    """The file, or standard input spooled to a temporary file, for it is read twice."""
    if str(options.file) != "-":
        path = options.file
        yield Source(path, str(path), path.absolute().parent)
        return
    with tempfile.NamedTemporaryFile(prefix="producer-", suffix=".csv") as spool:
        shutil.copyfileobj(sys.stdin.buffer, spool)
        spool.flush()
        yield Source(Path(spool.name), "stdin", Path.cwd())


def _batch(options: Options) -> str:
    if options.batch is None:
        if str(options.file) == "-":
            raise CommandFailed(Exit.USAGE, "name the batch with --batch when the CSV comes from standard input")
        return batch_name(options.file.stem)
    if not BATCH_NAME.fullmatch(options.batch):
        raise CommandFailed(
            Exit.USAGE,
            f"--batch {options.batch!r}: a batch name has up to 100 letters, digits, dots, dashes and underscores, "
            f"and begins with a letter or digit; {batch_name(options.batch)!r} would do",
        )
    return options.batch


def _target(options: Options, batch: str, session: Session) -> Target:
    output = session.settings.output_uri if options.output is None else options.output
    try:
        uri = resolve_uri(output, Path.cwd())
        store_for(uri)  # refuses what nothing can be written to, before a thousand workers find out
    except (InvalidJob, OutputForbidden) as error:
        named = "RENDER_OUTPUT_URI" if options.output is None else "--output"
        raise CommandFailed(Exit.USAGE, f"{named}: {error}") from error
    return Target(batch, uri.rstrip("/"), options.skip_invalid)


def _rejected_path(options: Options, batch: str) -> Path:
    return Path(f"{batch}.rejected.csv") if str(options.file) == "-" else rejected_path(options.file)


def _fingerprint(source: Source) -> tuple[int, int]:
    stat = source.path.stat()
    return stat.st_size, stat.st_mtime_ns


def _enqueue(source: Source, target: Target, session: Session, checked: Checked) -> tuple[Enqueued, int | None]:
    """What was enqueued, and how many files of the manifest were written."""
    if not checked.good:
        return Enqueued(), 0
    origin = source.name if source.name == "stdin" else source.path.absolute().as_uri()
    ledger, writer = session.ledger, store_for(target.output)
    is_new = ledger.batch(target.batch) is None
    info = ledger.open_batch(target.batch, output=target.output, source=origin)
    _check_same_batch(info, target, origin)
    manifest = Manifest(writer, target.output, batch=target.batch, source=origin)
    looking = recovery(ledger, info, writer, is_new=is_new, settle_seconds=session.settings.heartbeat_seconds)
    try:
        with looking as finished, row_progress("Enqueueing", checked.good) as tick:
            to = Destination(ledger, info.row_prefix(origin), finished, manifest.note)
            enqueued = enqueue(source, target, to, tick=tick)
        manifest.close()
        return enqueued, manifest.parts
    except KeyboardInterrupt:
        say(f"Stopped. {GO_ON}", "warning")
        raise
    except LedgerUnavailable as error:
        raise CommandFailed(Exit.NO_REDIS, f"{error}\n{GO_ON}") from error


def _check_same_batch(info: BatchInfo, target: Target, origin: str) -> None:
    if info.output != target.output:
        raise CommandFailed(
            Exit.USAGE,
            f"batch {info.name!r} writes to {place(info.output)}, not to {place(target.output)}; "
            "name the same --output, or another --batch",
        )
    if info.source != origin:
        say(f"batch {info.name!r} was begun from {place(info.source)}; the rows of this file join it", "warning")


def _report(source: Source, checked: Checked, options: Options) -> None:
    console = people()
    for remark in checked.remarks:
        say(f"{source.name}: {remark}", console=console)
    for problem in checked.problems:
        say(problem.sentence(source.name), "error", console)
    hidden = checked.problem_count - len(checked.problems)
    if hidden:
        say(f"... and {count(hidden, 'more problem', 'more problems')}", "error", console)
    if checked.absent:
        line, path = checked.first_absent or (0, "")
        say(
            f"{count(checked.absent, 'picture')} named in the first {count(min(checked.rows, LOOKED_FOR), 'row')} "
            f"cannot be found on this machine (line {line}: {path}); jobs whose worker cannot find theirs will fail",
            "warning",
            console,
        )
    _report_verdict(source, checked, options)


def _report_verdict(source: Source, checked: Checked, options: Options) -> None:
    if checked.unreadable:
        say("Nothing was enqueued.", "error")
    elif checked.rejected and not options.skip_invalid:
        bad = f"{count(checked.problem_count, 'problem')} in {count(checked.rejected, 'row')} of {checked.rows:,}"
        say(f"{bad}; nothing was enqueued. Correct the file, or leave these rows out with --skip-invalid.", "error")
    elif checked.rejected:
        where = _rejected_path(options, _batch(options))
        say(
            f"{count(checked.rejected, 'row')} of {checked.rows:,} left out, written with the reasons to {where}. "
            f"Correct them in {source.name} itself and submit it again: only they are new then.",
            "warning",
        )
    elif not checked.rows:
        say(f"{source.name} has a header and no rows: there is nothing to do", "warning")


def _report_enqueued(batch: str, enqueued: Enqueued, options: Options) -> None:
    known = {state: number for state, number in _already(enqueued).items() if number}
    were = "; there already: " + ", ".join(f"{number:,} {state}" for state, number in known.items()) if known else ""
    say(f"{count(enqueued.added, 'job')} enqueued in batch {batch!r}{were}", "good")
    if enqueued.recovered:
        say(f"{count(enqueued.recovered, 'job')} found finished in storage and recorded as done", "good")
    if enqueued.replaced:
        say(f"{count(enqueued.replaced, 'earlier version')} of corrected rows superseded", "warning")
    if enqueued.failed + enqueued.cancelled:
        say(f"Failed and cancelled jobs stay so until you ask: producer retry {batch}")
    if not options.wait and enqueued.added:
        say(f"Follow it with: producer status {batch} --watch")


def _summary(source: Source, target: Target, checked: Checked, rejected_to: Path | None) -> dict[str, object]:
    return {
        "batch": target.batch,
        "source": source.name,
        "output": redacted(target.output),
        "rows": checked.rows,
        "rejected": checked.rejected,
        "rejected_file": str(rejected_to) if rejected_to and checked.rejected else None,
        "problem_count": checked.problem_count,
    }


def _enqueued_summary(enqueued: Enqueued, checked: Checked, seconds: float) -> dict[str, object]:
    return {
        "enqueued": enqueued.added,
        "already": _already(enqueued),
        "recovered": enqueued.recovered,
        "replaced": enqueued.replaced,
        "seconds": round(seconds, 3),
        "rows_per_second": round(checked.rows / seconds, 1) if seconds > 0 else None,
    }


def _already(enqueued: Enqueued) -> dict[str, int]:
    """The jobs that the ledger knew, by state."""
    return enqueued.model_dump(include=set(STATES))
