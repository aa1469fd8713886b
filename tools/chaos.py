"""Break a running batch on purpose and check that nothing is lost; one JSON line a run.

    python -m tools.chaos [--jobs 2000] [--workers 4] [--faults 30] [--seed 1] [--runs 1] [--keep]
    python -m tools.chaos --storage bucket --only storage_away --only kill_worker
    python -m tools.chaos --recovery 7      how long after a kill -9 a worker's jobs run elsewhere, at default settings

Real workers (with engines that only take time), a real Redis with an append-only file and a real
`producer submit --wait` work on a batch. Meanwhile workers are killed, stopped and cut off, Redis is killed, storage
refuses or is away for a minute, workers with wrong settings or a foreign pool are started, messages vanish and garbage
appears. Results go to a folder for odd seeds and to a bucket for even ones.

Afterwards every job must have ended once, every result must be whole, every picture must equal the one that is rendered
here again, and storage must have cost no more than 2% of the finished jobs another drawing. The faults follow from the
seed; when they hit the jobs depends on the machine. --keep leaves the folder with all logs; a run with something wrong
always leaves it. Exit code 1: something was wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch comes: the pictures are checked with it

import structlog

from tests.chaos.arena import Plan, Where
from tests.chaos.recovery import recovery
from tests.chaos.run import chaos


def options() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description="Break a running batch on purpose; one JSON line a run.")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next has the next")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--storage", choices=("folder", "bucket"), help="where results go (default: by the seed)")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="cause only faults of this kind")
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and results")
    parser.add_argument("--recovery", type=int, metavar="KILLS", help="measure so many times how long recovery takes")
    return parser.parse_args()


def main() -> int:
    """Run each seed and print its JSON line; returns the exit code."""
    chosen = options()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the JSON lines
    if chosen.recovery:
        with tempfile.TemporaryDirectory(prefix="chaos-recovery-", ignore_cleanup_errors=True) as name:
            print(json.dumps({"recovery": recovery(chosen.recovery, chosen.seed, Path(name))}))
        return 0
    wrong = False
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        print(f"seed {seed}, in {folder}", file=sys.stderr)
        storage: Where = chosen.storage or ("folder" if seed % 2 else "bucket")
        plan = Plan(chosen.jobs, chosen.workers, chosen.faults, seed, storage=storage, only=tuple(chosen.only))
        result = chaos(plan, folder)
        print(json.dumps({"chaos": result}), flush=True)
        wrong = wrong or bool(result["wrong"])
        if not (chosen.keep or result["wrong"]):
            shutil.rmtree(folder)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
