"""What `producer submit` says to people on stderr."""

from __future__ import annotations

from producer.console import count, people, say
from producer.submission import Outcome, Request
from producer.table.pictures import LOOKED_FOR

_NOTHING = {
    "csv": "a header and no rows",
    "tsv": "a header and no rows",
    "jsonl": "no rows",
    "parquet": "columns and no rows",
    "folder": "no pictures",
    "again": "no pictures that say how they were made",
}
RIGHT_NAME = "is the name right?"
IS_MOUNTED = "is the name right, and if it is a share, is it mounted?"  # an empty folder stands for one that is not


def report_check(request: Request, outcome: Outcome) -> None:
    """How the file was read: its mistakes, its warnings, and whether anything goes to the queue."""
    console = people()
    report_rows(request, outcome)
    for sentence in outcome.prompt_warnings.sentences():
        say(sentence, "warning", console)
    if outcome.absent:
        line, path = outcome.first_absent or (0, "")
        where = outcome.pictures.first_place or f"line {line}"
        hint = ". If \\ stands between folders there, write /" if "\\" in path else ""
        say(
            f"{count(outcome.absent, 'picture')} named in the first {count(min(outcome.rows, LOOKED_FOR), 'row')} "
            f"cannot be found on this machine ({where}: {path}); jobs whose worker cannot find theirs will fail{hint}",
            "warning",
            console,
        )
    _report_verdict(request, outcome)


def report_rows(request: Request, outcome: Outcome) -> None:
    """How the file was read, and its first mistakes."""
    console = people()
    for remark in outcome.remarks:
        say(f"{request.name}: {remark}", console=console)
    for problem in outcome.problems:
        say(problem.sentence(request.name), "error", console)
    if outcome.has_no_pictures(request):
        question = RIGHT_NAME if request.uri or outcome.remarks else IS_MOUNTED
        say(f"{request.name} has {_NOTHING[request.kind]}; {question}", "error", console)
    hidden = outcome.problem_count - len(outcome.problems)
    if hidden:
        say(f"... and {count(hidden, 'more problem', 'more problems')}", "error", console)


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
            f"Correct them in {request.name} itself and submit it again{request.again}: only they are new then.",
            "warning",
        )
    elif not (outcome.rows or request.is_folder):
        say(f"{request.name} has {_NOTHING[request.kind]}: there is nothing to do", "warning")


def report_enqueued(request: Request, outcome: Outcome) -> None:
    """What the ledger took, what it knew already, and how to go on."""
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
