"""Look for inputs that break the code: CSV files, URIs, job messages, queue items, manifests, pictures (`make fuzz`).

    python -m tools.fuzz [--seconds N] [--seed N] [PYTEST ARGUMENTS]

Each round runs the fuzz tests with a new seed and a thousand examples a test; a failure prints the smallest example
that hypothesis found. `make test` runs the same tests with a hundred fixed examples. Prints one JSON line; exits with 1
after the first round that failed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import time

from tools import ROOT

TESTS = (
    "tests/fuzz",
    "tests/jobs/test_redaction.py",
    "tests/producer/table/test_any_file.py",
    "tests/integration/test_queue_fuzz.py",
)
# A line of --hypothesis-show-statistics; older versions say `examples`.
TRIED = re.compile(r"(\d+) passing(?: examples)?, (\d+) failing(?: examples)?,")


def main() -> int:
    """Run rounds until the time is over or one fails."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=600, help="start no round after these (default 600)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the first round (default: the time)")
    options, arguments = parser.parse_known_args()
    began, rounds, examples, code = time.monotonic(), 0, 0, 0
    while code == 0 and (rounds == 0 or time.monotonic() - began < options.seconds):
        code, tried = one_round(options.seed + rounds, arguments)
        rounds, examples = rounds + 1, examples + tried
    seconds = round(time.monotonic() - began, 1)
    print(json.dumps({"fuzz": {"seconds": seconds, "seed": options.seed, "rounds": rounds, "examples": examples,
                               "failed": code != 0}}))  # fmt: skip
    return 1 if code else 0


def one_round(seed: int, arguments: list[str]) -> tuple[int, int]:
    """Run one round; returns pytest's exit code and how many examples were tried."""
    command = [sys.executable, "-m", "pytest", "-q", "--hypothesis-profile", "search", "--hypothesis-seed", str(seed),
               "--hypothesis-show-statistics", "--timeout", "900", *(arguments or TESTS)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "2"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    tried = sum(sum(map(int, counts)) for counts in TRIED.findall(done.stdout))
    print(f"seed {seed}: {tried:,} examples, {'failed' if done.returncode else 'nothing found'}", file=sys.stderr)
    if done.returncode:
        print(done.stdout, done.stderr, sep="\n", file=sys.stderr)
    return done.returncode, tried


if __name__ == "__main__":
    sys.exit(main())
