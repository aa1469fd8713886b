"""One run of chaos: submit a batch, break things while it runs, let it end, and judge the results."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.chaos.arena import Arena, Plan
from tests.chaos.faults import drawn
from tests.chaos.storage import BATCH
from tests.chaos.verdict import judge
from tests.forked import ForkedProcess

Command = subprocess.Popen[str] | ForkedProcess

LIMIT_SECONDS = 900.0
EARLY = 0.85  # share of the jobs finished at the last fault: some must be left for it to break
NO_PROGRESS_SECONDS = 8.0  # then the next fault comes anyway


def chaos(plan: Plan, folder: Path) -> dict[str, object]:
    """Run a plan in an empty folder; returns the numbers and, under `wrong`, sentences about what is wrong."""
    began = time.monotonic()
    with Arena(plan, folder) as arena:
        for _ in range(plan.workers):
            arena.start_worker()
        waiting = arena.producer("submit", str(arena.csv), "--wait")
        while arena.counts().total < plan.jobs:
            time.sleep(0.1)
        arena.wait_until_loaded()  # a fault of storage would break nothing before
        broken = _break_things(arena, plan, waiting)
        wrong = _let_it_end(arena, waiting)
        seconds = time.monotonic() - began
        verdict = judge(arena)
    return {
        "seed": plan.seed,
        "storage": plan.storage,
        "jobs": plan.jobs,
        "workers": plan.workers,
        "faults": sum(broken.values()),
        "seconds": round(seconds, 1),
        **verdict.counted,
        "broken": dict(sorted(broken.items())),
        "wrong": [*wrong, *verdict.wrong],
    }


def _break_things(arena: Arena, plan: Plan, waiting: Command) -> Counter[str]:
    """Cause one fault after another, spread over the batch; returns how many of each kind."""
    rng = random.Random(f"faults {plan.seed}")
    broken: Counter[str] = Counter()
    for number, fault in enumerate(drawn(arena, rng)):
        due = EARLY * plan.jobs * number / plan.faults
        deadline = time.monotonic() + NO_PROGRESS_SECONDS
        while arena.counts().finished < due and time.monotonic() < deadline:
            time.sleep(0.1)
        if waiting.poll() is not None:
            break  # all jobs have ended before all faults have happened
        sys.stderr.write(f"{arena.counts().finished:>6} finished: {fault.__name__}\n")
        fault(arena, rng)
        broken[fault.__name__] += 1
        arena.replace_the_dead()
    return broken


def _let_it_end(arena: Arena, waiting: Command) -> list[str]:
    """Wait for the end of the batch, retry what failed through storage, then stop the workers."""
    wrong = _end(arena, waiting, "submit --wait")
    for arguments in (["retry", BATCH, "--only", "failed"], ["status", BATCH, "--watch", "--json"]):
        wrong += _end(arena, arena.producer(*arguments), " ".join(arguments))
    arena.wait_until_loaded()
    for worker in arena.workers:
        worker.terminate()
    for worker in arena.workers:
        if (code := worker.exit_code(seconds=60)) != 0:
            wrong.append(f"a worker ended with {code} after SIGTERM: {worker.log}")
    return wrong


def _end(arena: Arena, command: Command, what: str) -> list[str]:
    deadline = time.monotonic() + LIMIT_SECONDS
    while command.poll() is None:
        arena.replace_the_dead()
        if time.monotonic() > deadline:
            command.kill()
            return [f"{what} did not end: {arena.counts()}"]
        time.sleep(0.2)
    stdout, _ = command.communicate()
    if command.returncode not in (0, 1):
        return [f"{what} ended with {command.returncode}: see {arena.folder}/producer.log"]
    json.loads(stdout)
    return []
