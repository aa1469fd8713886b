"""Old batches leave: `producer prune`, and what `producer keep` does once an hour where RENDER_KEEP_DAYS is set."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import Literal

from jobs.errors import LedgerUnavailable, RenderError
from jobs.ledger.ages import EndedBatch, ended_before, is_still_old
from jobs.ledger.deletions import Forgotten
from jobs.ledger.ledger import Ledger
from jobs.ledger.messages_of_batches import take_messages
from jobs.ledger.records import BatchInfo
from producer.confirm import confirm
from producer.console import count, place, say, write_json
from producer.delete import delete_batch, report
from producer.exits import CommandFailed, Exit
from producer.session import Session, open_session
from producer.status import Choice

DAY_SECONDS = 86_400.0
UNITS = {"h": 3600.0, "d": DAY_SECONDS, "w": 7 * DAY_SECONDS}
WHY_IT_STAYS = {
    "active": "jobs of it were queued meanwhile",
    "taken": "producer delete has begun to delete it",
    "younger": "a job of it has been queued or has ended meanwhile, or it is another batch of that name now",
}
_AGE = re.compile(r"(\d{1,6}(?:\.\d{1,6})?) ?([hdw])", re.ASCII)


class _Younger(Exception):
    """A batch is not old any more."""


def prune(ledger: Ledger, *, older_than_days: float) -> list[str]:
    """Delete the batches whose last job ended so long ago from the ledger, and no files; returns their names.

    Raises:
        LedgerUnavailable: Redis does not answer. What is deleted stays so.
    """
    before = ledger.server_time() - older_than_days * DAY_SECONDS
    infos = [batch.info for batch in ended_before(ledger, ledger.batches(), before)]
    take_messages(ledger, [info.name for info in infos])
    ledger.forget_remains()
    return [info.name for info in infos if _forget(ledger, info, before=before) == "forgotten"]


def prune_old(
    *,
    older_than: str,
    name: str | None,
    state: Literal["done", "failed", "cancelled"] | None,
    results: bool,
    dry_run: bool,
    yes: bool,
) -> Exit:
    """Run the command: list the old batches, ask, delete them.

    Raises:
        CommandFailed: the age cannot be read, or the answer was not yes.
        LedgerUnavailable: Redis does not answer.
    """
    seconds = age_seconds(older_than)
    session = open_session()
    before = session.ledger.server_time() - seconds
    old = _old(session, Choice(name, state), before=before)
    for batch in old:
        _say_what(batch, results=results)
    if dry_run or not old:
        say(f"{count(len(old), 'batch', 'batches')} older than {older_than}; nothing was deleted")
        for batch in old:
            write_json(_record(batch) | {"deleted": False})
        return Exit.OK
    if not yes:
        _confirm(len(old), results=results)
    return _delete(session, old, before=before, results=results)


def age_seconds(text: str) -> float:
    """`30d`, `12h` or `2w` in seconds.

    Raises:
        CommandFailed: anything else.
    """
    match = _AGE.fullmatch(text.strip().lower())
    if match is None:
        raise CommandFailed(
            Exit.USAGE, f"--older-than {text!r}: write a number and h, d or w for hours, days or weeks, as in 30d"
        )
    return float(match[1]) * UNITS[match[2]]


def _old(session: Session, choice: Choice, *, before: float) -> list[EndedBatch]:
    """Batches that ended before a time, the oldest first."""
    chosen = choice.infos(session) if choice.state is None else [each.info for each in choice.counted(session)]
    return list(ended_before(session.ledger, chosen[::-1], before))


def _say_what(batch: EndedBatch, *, results: bool) -> None:
    info, counts = batch.info, batch.counts
    states = [f"{number:,} {state}" for state in ("done", "failed", "cancelled") if (number := getattr(counts, state))]
    ended = time.strftime("%Y-%m-%d %H:%M", time.localtime(batch.ended_at))
    files = f", with its files in {place(info.output)}/{info.name}" if results else ""
    say(f"{info.name}: {', '.join(states) or 'no jobs'}, last ended {ended}{files}")


def _confirm(number: int, *, results: bool) -> None:
    batches = count(number, "batch", "batches")
    if results:
        confirm(f"Delete {batches} and their pictures?", word=str(number), what="the number of batches")
    else:
        confirm(f"Delete {batches} from Redis? Their pictures stay.")


def _delete(session: Session, old: Sequence[EndedBatch], *, before: float, results: bool) -> Exit:
    """Delete them one by one. One that cannot be deleted does not stop the others."""
    if not results:
        take_messages(session.ledger, [batch.info.name for batch in old])  # the queue is read once for many
    session.ledger.forget_remains()
    code = Exit.OK
    for batch in old:
        try:
            record = _delete_one(session, batch, before=before, results=results)
        except LedgerUnavailable:
            raise
        except (CommandFailed, RenderError) as error:
            say(str(error), "error")
            code = error.code if isinstance(error, CommandFailed) else Exit.STORAGE
            record = {"deleted": False}
        write_json(_record(batch) | record)
    return code


def _delete_one(session: Session, batch: EndedBatch, *, before: float, results: bool) -> dict[str, object]:
    name = batch.info.name
    if results:
        return _delete_files_too(session, batch, before=before)
    verdict = _forget(session.ledger, batch.info, before=before)
    if verdict == "forgotten":
        say(f"batch {name!r} deleted", "good")
    else:
        _say_it_stays(name, verdict)
    return {"deleted": verdict == "forgotten"}


def _forget(ledger: Ledger, info: BatchInfo, *, before: float) -> Forgotten | Literal["younger"]:
    """Forget a batch if it is still old: others were deleted since the look, or a person took long to say yes."""
    return ledger.forget(info.name) if is_still_old(ledger, info, before) else "younger"


def _delete_files_too(session: Session, batch: EndedBatch, *, before: float) -> dict[str, object]:
    name, output = batch.info.name, batch.info.output

    def check() -> None:
        if not is_still_old(session.ledger, batch.info, before):
            raise _Younger

    try:
        deleted = delete_batch(session, name, output, check=check)
    except _Younger:
        _say_it_stays(name, "younger")
        return {"deleted": False}
    report(name, deleted)
    return {"deleted": True, "files": deleted.files and deleted.files.deleted}


def _say_it_stays(name: str, why: str) -> None:
    say(f"batch {name!r} stays: {WHY_IT_STAYS[why]}", "warning")


def _record(batch: EndedBatch) -> dict[str, object]:
    return {"batch": batch.info.name, "ended_at": batch.ended_at, "counts": batch.counts.model_dump()}
