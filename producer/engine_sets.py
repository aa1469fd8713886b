"""What the commands say of engine sets: of those that drew a batch, and of the one that shall draw it.

Of the first there is a warning for people, and two keys for JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from jobs.ledger.records import EngineSetJobs, EngineSets, Heartbeat
from producer.console import count, printable, say

if TYPE_CHECKING:
    from rich.console import Console

DIGEST_DIGITS = 12  # of 64, as `engines` shows digests too
SHOWN_SETS = 5
SHOWN_WORKERS = 5


def engine_set_name(digest: str, model: str | None) -> str:
    """`235d4e6a7af6 (dreamshaper_8)`: a digest's first digits, and the model where it is known."""
    return printable(f"{digest[:DIGEST_DIGITS]}{f' ({model})' if model else ''}")


def difference(sets: EngineSets) -> str | None:
    """The warning that a batch was drawn by several engine sets; None where that is not known to be so."""
    if not sets.differ:
        return None
    shown = [_jobs(of) for of in sets.sets[:SHOWN_SETS]]
    hidden = sets.sets[SHOWN_SETS:]
    if hidden:
        shown.append(f"{sum(of.jobs for of in hidden):,} by {count(len(hidden), 'other set')}")
    if sets.unknown:
        shown.append(f"{sets.unknown:,} by sets that were not counted (producer results names each job's)")
    return f"{len(sets.sets)} different engine sets drew these pictures: {', '.join(shown)}"


def uncounted(sets: EngineSets) -> str | None:
    """The remark that other sets may have drawn part of a large batch; None where there is nothing to remark."""
    if sets.differ or not sets.sets or not sets.unknown:
        return None
    (of,) = sets.sets
    jobs = count(of.jobs, "job")
    return (
        f"engine set {engine_set_name(of.engine_set, of.model)} drew at least {jobs}; {sets.unknown:,} ended without "
        "their set being counted, as workers of an earlier version end jobs (producer results names each job's)"
    )


def say_engine_sets(sets: EngineSets, *, batch: str | None = None, console: Console | None = None) -> None:
    """Warn people of a batch that several engine sets drew. `batch` names it, where others are shown beside it."""
    begin = f"batch {batch!r}: " if batch else ""
    if text := difference(sets):
        say(f"{begin}{text}", "warning", console)
    elif text := uncounted(sets):
        say(f"{begin}{text}", console=console)


def engine_sets_record(sets: EngineSets) -> dict[str, object]:
    """The two keys for JSON: `engine_sets`, those of the most jobs first, and `engine_sets_unknown`, in jobs."""
    return {"engine_sets": [of.model_dump() for of in sets.sets], "engine_sets_unknown": sets.unknown}


def say_who_holds(workers: Iterable[Heartbeat], engine_set: str) -> None:
    """Say which live workers hold the engine set that a batch is kept to; a warning where none does.

    `engine_set` are the first digits of its digest.
    """
    beats = list(workers)
    holders = [beat for beat in beats if (beat.facts.engine_set or "").startswith(engine_set)]
    sets = {beat.facts.engine_set: beat.facts.model for beat in holders}
    silent = sum(beat.facts.engine_set is None for beat in beats)
    older = f"; {count(silent, 'worker')} of an earlier version cannot be asked" if silent else ""
    if len(sets) > 1:
        shown = ", ".join(engine_set_name(digest or "", model) for digest, model in sets.items())
        say(f"--engine-set {engine_set} fits several sets of live workers: {shown}. Give more digits", "warning")
    elif holders:
        ((digest, model),) = sets.items()
        names = ", ".join(sorted(beat.worker for beat in holders)[:SHOWN_WORKERS])
        more = f" and {len(holders) - SHOWN_WORKERS:,} more" if len(holders) > SHOWN_WORKERS else ""
        held = f"{count(len(holders), 'live worker')} of {len(beats):,}: {names}{more}"
        say(f"engine set {engine_set_name(digest or '', model)} is held by {held}{older}")
    else:
        say(
            f"no live worker holds an engine set that begins with {engine_set[:DIGEST_DIGITS]}{older}. Jobs wait for a "
            "worker; once every live worker has refused a job, it fails (engine_set_not_held), and producer retry "
            "renders it when a worker with that set runs",
            "warning",
        )


def _jobs(of: EngineSetJobs) -> str:
    return f"{of.jobs:,} by {engine_set_name(of.engine_set, of.model)}"
