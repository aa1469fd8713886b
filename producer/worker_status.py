"""The live workers, as they describe themselves in their heartbeats."""

from __future__ import annotations

import time
from collections.abc import Mapping

from jobs.ledger.records import Heartbeat
from producer.batch_table import ago
from producer.console import count, people, printable, say, write_json
from producer.engine_sets import engine_set_name
from producer.output import json_asked

SHOWN_PAUSED = 3

Heartbeats = Mapping[str, Heartbeat]


def workers_record(workers: Heartbeats) -> dict[str, int]:
    """For JSON: how many jobs each worker holds."""
    return {beat.worker: len(beat.in_flight) for beat in workers.values()}


def say_workers(workers: Heartbeats) -> None:
    """Say in a line how many workers live, and in one more which of them take no jobs."""
    if not workers:
        say("No worker is at work.", "warning")
        return
    in_flight = sum(len(beat.in_flight) for beat in workers.values())
    say(f"{count(len(workers), 'worker')} at work, holding {count(in_flight, 'job')}")
    paused = [beat for beat in workers.values() if beat.facts.paused is not None]
    if paused:
        said = "; ".join(f"{beat.worker}: {beat.facts.paused}" for beat in paused[:SHOWN_PAUSED])
        more = f"; and {len(paused) - SHOWN_PAUSED:,} more" if len(paused) > SHOWN_PAUSED else ""
        verb = "takes no jobs" if len(paused) == 1 else "take no jobs"
        say(f"{len(paused):,} of {len(workers):,} {verb}: {said}{more} (producer status --workers)", "warning")


def show_workers(workers: Heartbeats) -> None:
    """Print all that the workers say of themselves: a few lines each for people, a line each as JSON."""
    beats = sorted(workers.values(), key=lambda beat: beat.worker)
    if not json_asked():
        if not beats:
            say("No worker is at work.", "warning")
        for beat in beats:
            _show(beat)
    for beat in beats:
        write_json(_record(beat))


def _show(beat: Heartbeat) -> None:
    facts, now = beat.facts, time.time()
    console = people()
    say(f"{beat.worker}: {_does(beat)}", "note" if facts.paused is None else "warning", console)
    since = None if facts.started_at is None else f"started {ago(now - facts.started_at)}"
    about = [f"host {facts.host}" if facts.host else None, since, f"queue {facts.queue}" if facts.queue else None]
    say("  " + ", ".join([*filter(None, about), f"last heartbeat {ago(now - beat.at)}"]), console=console)
    for held in facts.held:
        name = f"{printable(held.name)}: " if held.name else ""
        say(f"  {name}engine set {engine_set_name(held.engine_set, held.model)}", console=console)
    if facts.last_error:
        say(f"  last error: {printable(facts.last_error)}", console=console)


def _does(beat: Heartbeat) -> str:
    holds = f"holds {count(len(beat.in_flight), 'job')}"
    return holds if beat.facts.paused is None else f"takes no jobs: {printable(beat.facts.paused)}; {holds}"


def _record(beat: Heartbeat) -> dict[str, object]:
    facts = beat.facts.model_dump(include={"queue", "settings", "engine_set", "model", "host", "started_at"})
    return {
        "worker": beat.worker,
        **facts,
        "sets": [held.model_dump() for held in beat.facts.held],
        "jobs": list(beat.in_flight),
        "paused": beat.facts.paused,
        "last_error": beat.facts.last_error,
        "heartbeat_at": beat.at,
        "seconds_since_heartbeat": round(max(0.0, time.time() - beat.at), 1),
    }
