"""Measure how soon after a kill -9 a worker's jobs run on another one, at default settings."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from jobs.ledger.records import JobState
from jobs.settings import Settings
from tests.chaos.arena import Arena, Plan
from tests.chaos.storage import BATCH

JOBS = 16  # RENDER_JOBS_IN_FLIGHT: one worker has room for all of them
STEPS = 999  # at 200 ms each: no job ends while we measure
LIMIT_SECONDS = 60.0
TIMING = ("heartbeat_seconds", "lease_seconds", "reconcile_seconds")


def recovery(kills: int, seed: int, folder: Path) -> dict[str, object]:
    """Kill a worker `kills` times while `producer submit --wait` runs, and measure each recovery.

    A recovery's seconds are those from the kill to the start of the last of its jobs on another worker.
    """
    rng = random.Random(f"recovery {seed}")
    defaults = {name: Settings.model_fields[name].default for name in TIMING}
    plan = Plan(jobs=JOBS, workers=2, faults=kills, seed=seed, step_ms=200)
    with Arena(plan, folder) as arena:
        _make_jobs_long(arena)
        worker_defaults = {name: defaults[name] for name in TIMING[:2]}
        worker_defaults |= {"jobs_in_flight": JOBS, "visibility_timeout_seconds": 3600, "max_attempts": 100}
        for _ in range(plan.workers):
            arena.start_worker(**worker_defaults)
        _wait_until(lambda: len(arena.ledger.workers()) == 2)
        waiting = arena.producer("submit", str(arena.csv), "--wait", **defaults)
        _wait_until(lambda: arena.counts().running == JOBS)
        seconds = []
        for _ in range(kills):
            time.sleep(rng.uniform(4.0, 8.0))  # heartbeats and passes of the reconciler at any phase
            seconds.append(_kill_one(arena))
            arena.start_worker(**worker_defaults)
            _wait_until(lambda: len(arena.ledger.workers()) == 2)
        waiting.kill()
        waiting.communicate()
    return {
        "kills": kills,
        "seconds": {"p50": round(statistics.median(seconds), 1), "max": round(max(seconds), 1)},
        "all": [round(value, 1) for value in seconds],
        **defaults,
    }


def _kill_one(arena: Arena) -> float:
    """Kill the worker with the most jobs in flight; returns the seconds until all of them run on another."""
    running = _running(arena)
    names = [line.worker or "" for line in running]
    victim = max(set(names), key=names.count)
    held = {line.id for line in running if line.worker == victim}
    (worker,) = [worker for worker in arena.workers if f"-{worker.pid}-" in victim]
    killed = time.monotonic()
    worker.kill()
    arena.workers.remove(worker)
    _wait_until(lambda: held <= {line.id for line in _running(arena) if line.worker != victim})
    return time.monotonic() - killed


def _running(arena: Arena) -> list[JobState]:
    return list(arena.ledger.states(BATCH, only=("running",)))


def _make_jobs_long(arena: Arena) -> None:
    rows = "".join(f"{row % 8}.png,thing {row},64,{STEPS}\n" for row in range(JOBS))
    arena.csv.write_text("image,prompt,image_resolution,ddim_steps\n" + rows)


def _wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {LIMIT_SECONDS:g} s")
        time.sleep(0.1)
