"""Watching several batches until none of their jobs is queued or running."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import reduce

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from jobs.ledger.records import BatchInfo, Counts
from producer.batch_table import Counted, batch_list
from producer.console import people, say
from producer.display import REFRESHES_A_SECOND, Display, Pace, display_for, sentence
from producer.exits import CommandFailed, Exit
from producer.session import Session
from producer.watch import Repairs, WorkerAlarm, follow, quick_pass, whole_pass

OTHER_LINES = 4  # of the terminal, which the table leaves for the pace and the prompt
LOST = "Redis came back with fewer jobs than it had. Bring them back with: producer reconcile --from-storage"


def watch_all(
    session: Session,
    look: Callable[[], list[Counted]],
    *,
    is_gone: Callable[[BatchInfo], bool],
    only_unfinished: bool,
) -> list[Counted]:
    """Wait until nothing of the batches is queued or running. Returns those that were watched, as they ended.

    `look` gives the batches with their newest counts; `is_gone` says of one that has fewer jobs than before, or is not
    among them any more, whether Redis lost nothing. With `only_unfinished`, those are watched of which a job was
    queued or running at some look.

    Raises:
        LedgerUnavailable: Redis did not answer for a minute; the batches go on.
        CommandFailed: Redis lost jobs.
        KeyboardInterrupt: after a sentence that says so.
    """
    console = people()
    watched = _Watched(look, is_gone, only_unfinished=only_unfinished)
    watched.counts()
    if not watched.batches:
        say("Nothing is queued or running.", "good")
        return []
    try:
        with (
            Repairs(quick_pass(session, None), session, console) as quick,
            Repairs(whole_pass(session, None), session, console) as whole,
            _display(console, watched) as display,
        ):
            follow(watched, display, [quick.tick, whole.tick, WorkerAlarm(session, console).tick])
    except KeyboardInterrupt:
        say("Stopped watching. The batches go on; watch them again with: producer status --watch", "warning")
        raise
    _report(watched.batches)
    return watched.batches


class _Watched:
    """The batches, and their counts added up."""

    def __init__(
        self,
        look: Callable[[], list[Counted]],
        is_gone: Callable[[BatchInfo], bool],
        *,
        only_unfinished: bool,
    ) -> None:
        self._look = look
        self._is_gone = is_gone
        self._only_unfinished = only_unfinished
        self._names: set[str] = set()
        self._most = 0
        self.batches: list[Counted] = []

    def counts(self) -> Counts:
        """The counts of all watched batches together."""
        seen = self._look()
        self._leave_out_gone({each.info.name: each.counts.known for each in seen})
        self._names |= {each.info.name for each in seen if each.is_unfinished or not self._only_unfinished}
        self.batches = [each for each in seen if each.info.name in self._names]
        total = added(self.batches)
        if total.known < self._most:
            raise CommandFailed(Exit.NO_REDIS, LOST)
        self._most = total.known
        return total

    def _leave_out_gone(self, jobs: Mapping[str, int]) -> None:
        """Where a batch was deleted, Redis lost nothing. One that was submitted under its name since is another one."""
        for each in self.batches:
            name, before = each.info.name, each.counts.known
            if jobs.get(name, 0) < before and self._is_gone(each.info):
                self._names.discard(name)
                self._most -= before


def added(counted: Sequence[Counted]) -> Counts:
    """The counts of several batches together."""
    return reduce(_sum, (each.counts for each in counted), Counts())


def _sum(one: Counts, other: Counts) -> Counts:
    return Counts(**{state: getattr(one, state) + getattr(other, state) for state in Counts.model_fields})


def _display(console: Console, watched: _Watched) -> AbstractContextManager[Display]:
    return _Table(console, watched) if console.is_terminal else display_for(console, "all batches")


class _Table:
    """The unfinished batches, as many as fit on the screen, and the pace of all together."""

    def __init__(self, console: Console, watched: _Watched) -> None:
        self._console = console
        self._watched = watched
        self._pace = Pace()
        self._counts = Counts()
        self._live = Live(
            console=console, refresh_per_second=REFRESHES_A_SECOND, get_renderable=self._drawn, transient=True
        )

    def show(self, counts: Counts) -> None:
        """Show the newest counts."""
        self._pace.note(counts)
        self._counts = counts

    def __enter__(self) -> _Table:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def _drawn(self) -> Group:
        unfinished = [each for each in self._watched.batches if each.is_unfinished]
        unfinished.sort(key=lambda each: not each.counts.running)  # the others wait, and may be out of sight
        said = " · ".join([sentence(self._counts), *self._pace.said(self._counts)])
        size = {"width": self._console.width, "height": self._console.height - OTHER_LINES}
        return Group(Text(said, overflow="fold"), batch_list(unfinished, **size))


def _report(batches: Sequence[Counted]) -> None:
    """Say how each batch ended."""
    for each in batches:
        bad = each.counts.failed + each.counts.cancelled
        see = f": producer results {each.info.name} --state failed" if each.counts.failed else ""
        say(f"{each.info.name}: {sentence(each.counts)}{see}", "warning" if bad else "good")
