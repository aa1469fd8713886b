"""Break a running batch on purpose and check that nothing is lost; one JSON line a run.

    python -m tools.chaos [--jobs 2000] [--workers 4] [--faults 30] [--seed 1] [--runs 1] [--keep]
    python -m tools.chaos --recovery 7      how long after a kill -9 a worker's jobs run elsewhere, at default settings

Real workers (with engines that only take time), a real Redis with an append-only file, a real
`producer submit --wait`. Meanwhile workers are killed, stopped and cut off, Redis is killed, storage refuses, messages
vanish, garbage appears. In the end every job has ended once, every result is whole, and every picture is the one that
is drawn here again. Faults follow from the seed; how they meet the jobs depends on the machine. --keep leaves the
folder with all logs; one with something wrong is always left. Exit code 1: something was wrong.
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

from tests.chaos.arena import Plan
from tests.chaos.recovery import recovery
from tests.chaos.run import chaos


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Break a running batch on purpose; one JSON line a run.")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--faults", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; the next has the next")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--keep", action="store_true", help="leave the folder with logs and results")
    parser.add_argument("--recovery", type=int, metavar="KILLS", help="measure so many times how long recovery takes")
    return parser.parse_args()


def main() -> int:
    """The command."""
    chosen = options()
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # stdout is for the JSON lines
    if chosen.recovery:
        with tempfile.TemporaryDirectory(prefix="chaos-recovery-", ignore_cleanup_errors=True) as folder:
            print(json.dumps({"recovery": recovery(chosen.recovery, chosen.seed, Path(folder))}))
        return 0
    wrong = False
    for seed in range(chosen.seed, chosen.seed + chosen.runs):
        folder = Path(tempfile.mkdtemp(prefix=f"chaos-{seed}-"))
        print(f"seed {seed}, in {folder}", file=sys.stderr)
        found = chaos(Plan(chosen.jobs, chosen.workers, chosen.faults, seed), folder)
        print(json.dumps({"chaos": found}), flush=True)
        wrong = wrong or bool(found["wrong"])
        if not (chosen.keep or found["wrong"]):
            shutil.rmtree(folder)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
