"""What the commands say of engine sets: of those that drew a batch, and of the one that is to draw it.

For those that drew it there is a warning for people, and keys for JSON.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from jobs.ledger.records import EngineSetJobs, EngineSets, Heartbeat
from producer.console import count, printable, say

if TYPE_CHECKING:
    from rich.console import Console

DIGEST_DIGITS = 12  # of 64, as `engines` shows digests too
SHOWN_SETS = 5
SHOWN_MODELS = 3
SHOWN_WORKERS = 5
SHOWN_NAMES = 10


def engine_set_name(digest: str, model: str | None) -> str:
    """`235d4e6a7af6 (dreamshaper_8)`: a digest's first digits, and the model where it is known."""
    return printable(f"{digest[:DIGEST_DIGITS]}{f' ({model})' if model else ''}")


def difference(sets: EngineSets) -> str | None:
    """The warning that one model's rows were drawn by several engine sets; None where that is not known to be so.

    Rows that ask for no model are one model's.
    """
    differing = sets.differing
    if not differing:
        return None
    said = [
        f"{len(of)} different engine sets drew {_whose(model, sets)}: {', '.join(_shown(of))}"
        for model, of in differing[:SHOWN_MODELS]
    ]
    if len(differing) > SHOWN_MODELS:
        said.append(f"and so it is with {count(len(differing) - SHOWN_MODELS, 'other model')}")
    if sets.unknown:
        said[-1] += f", {sets.unknown:,} by sets that were not counted (producer results names each job's)"
    return "; ".join(said)


def _whose(model: str | None, sets: EngineSets) -> str:
    if not sets.by_model:
        return "these pictures"
    if model is None:  # workers of an earlier version do not say which model a row asks for
        return "the rows without a model, or rows that workers of an earlier version drew"
    return f"the rows of model {printable(model)}"


def _shown(sets: Sequence[EngineSetJobs]) -> list[str]:
    shown = [_jobs(of) for of in sets[:SHOWN_SETS]]
    hidden = sets[SHOWN_SETS:]
    if hidden:
        shown.append(f"{sum(of.jobs for of in hidden):,} by {count(len(hidden), 'other set')}")
    return shown


def uncounted(sets: EngineSets) -> str | None:
    """The remark that other sets may have drawn part of a large batch; None where there is nothing to remark."""
    if sets.differ or not sets.sets or not sets.unknown:
        return None
    drew = ", ".join(
        f"engine set {engine_set_name(of.engine_set, of.model)} drew at least {count(of.jobs, 'job')}"
        for of in sets.sets[:SHOWN_SETS]
    )
    return (
        f"{drew}; {sets.unknown:,} ended without their set being counted, as workers of an earlier version end jobs "
        "(producer results names each job's)"
    )


def say_engine_sets(sets: EngineSets, *, batch: str | None = None, console: Console | None = None) -> None:
    """Warn people of a batch that several engine sets drew. `batch` names it, where others are shown beside it."""
    begin = f"batch {batch!r}: " if batch else ""
    if text := difference(sets):
        say(f"{begin}{text}", "warning", console)
    elif text := uncounted(sets):
        say(f"{begin}{text}", console=console)


def engine_sets_record(sets: EngineSets) -> dict[str, object]:
    """The keys for JSON: `engine_sets`, those of the most jobs first, and `engine_sets_unknown`, in jobs.

    Where rows ask for models, `engine_sets_by_model` has the first by model ('' for rows that ask for none).
    """
    record: dict[str, object] = {"engine_sets": _dumped(sets.sets), "engine_sets_unknown": sets.unknown}
    if sets.by_model:
        record["engine_sets_by_model"] = {model or "": _dumped(of) for model, of in sets.by_model}
    return record


def _dumped(sets: Sequence[EngineSetJobs]) -> list[dict[str, object]]:
    return [of.model_dump() for of in sets]


def say_who_holds(workers: Iterable[Heartbeat], engine_set: str) -> None:
    """Say which live workers hold the engine set that a batch is kept to; a warning if no worker does.

    `engine_set` are the first digits of its digest.
    """
    beats = list(workers)
    sets = {
        held.engine_set: held.model
        for beat in beats
        for held in beat.facts.held
        if held.engine_set.startswith(engine_set)
    }
    holders = [beat for beat in beats if any(held.engine_set in sets for held in beat.facts.held)]
    silent = sum(beat.facts.engine_set is None for beat in beats)
    older = f"; {count(silent, 'worker')} of an earlier version cannot be asked" if silent else ""
    if len(sets) > 1:
        shown = ", ".join(engine_set_name(digest or "", model) for digest, model in sets.items())
        say(f"--engine-set {engine_set} fits several sets of live workers: {shown}. Give more digits", "warning")
    elif holders:
        ((digest, model),) = sets.items()
        say(f"engine set {engine_set_name(digest or '', model)} is held by {_named(holders, of=len(beats))}{older}")
    else:
        say(
            f"no live worker holds an engine set that begins with {engine_set[:DIGEST_DIGITS]}{older}. Jobs wait for a "
            "worker; once every live worker has refused a job, it fails (engine_set_not_held), and producer retry "
            "renders it when a worker with that set runs",
            "warning",
        )


def say_who_holds_model(workers: Iterable[Heartbeat], name: str) -> None:
    """Say which live workers hold the engine set of this name; if no worker does, warn with the names that are held."""
    beats = list(workers)
    holders = [beat for beat in beats if name in (held.name for held in beat.facts.held)]
    if holders:
        say(f"model {name} is held by {_named(holders, of=len(beats))}")
        return
    names = sorted({held.name for beat in beats for held in beat.facts.held if held.name})
    hidden = f" and {len(names) - SHOWN_NAMES:,} more" if len(names) > SHOWN_NAMES else ""
    they_hold = f"; they hold {', '.join(map(printable, names[:SHOWN_NAMES]))}{hidden}" if names else ""
    say(
        f"no live worker holds a model called {name}{they_hold}. Jobs wait for a worker; once every live worker has "
        "refused a job, it fails (engine_set_not_held), and producer retry renders it when a worker holds that model",
        "warning",
    )


def _named(holders: Sequence[Heartbeat], *, of: int) -> str:
    names = ", ".join(sorted(beat.worker for beat in holders)[:SHOWN_WORKERS])
    more = f" and {len(holders) - SHOWN_WORKERS:,} more" if len(holders) > SHOWN_WORKERS else ""
    return f"{count(len(holders), 'live worker')} of {of:,}: {names}{more}"


def _jobs(of: EngineSetJobs) -> str:
    return f"{of.jobs:,} by {engine_set_name(of.engine_set, of.model)}"
