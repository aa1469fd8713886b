"""Run the tests again and again, on a busy machine and as two users, until they have passed often enough in a row.

    python -m tools.stress                  go on until everything is shown, or a run fails
    python -m tools.stress --minutes 50     start no further run after so many minutes
    python -m tools.stress --status         only say what is still to do

What is to be shown: the tests with processes or timing (the marker `processes`) pass ten times in a row beside two
busy processes, five times as root and five times as another user; the whole suite passes twice as root and once as
the other user. Each run adds one JSON line to the log, with the commit that it ran at. The log is in the repository, so
the runs may be spread over days: those of this commit and of the commits that it grew from count. After a failure the
count of that kind and user begins anew. The output of a failed run lies in build/.

The other user works in a copy of the tree. Without root there is only one user, and the other's runs are left out.
Prints one JSON line at the end. Exit code 0: everything is shown; 1: a run failed; 2: some runs are still to do.
"""

from __future__ import annotations

import argparse
import getpass
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from tools import ROOT
from tools.other_user import OtherUser
from tools.progress import say

BUSY_PROCESSES = 2
RUN_LIMIT_SECONDS = 3600.0
STOP_SECONDS = 60.0
LOG = ROOT / "docs" / "notes" / "stress.jsonl"
OUTPUTS = ROOT / "build"
SELECTED = {"timing": "processes and not gpu and not deploy", "suite": "not gpu and not deploy"}
VARIABLES = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
CODE_SHOWN, CODE_FAILED, CODE_TO_DO = 0, 1, 2


@dataclass(frozen=True)
class Goal:
    """So many runs of one kind, by one user, passed in a row."""

    what: str  # "timing" or "suite"
    user: str
    times: int


@dataclass(frozen=True)
class Run:
    """One run, as a line of the log has it."""

    what: str
    user: str
    number: int
    passed: int
    failed: int  # errors among them; 1 where pytest itself did not end well
    skipped: int
    seconds: float
    commit: str


def goals(user: str, other: str | None) -> list[Goal]:
    """What is to be shown; everything falls to one user if there is no other."""
    if other is None:
        return [Goal("timing", user, 10), Goal("suite", user, 2)]
    return [Goal("timing", user, 5), Goal("timing", other, 5), Goal("suite", user, 2), Goal("suite", other, 1)]


def in_a_row(runs: Sequence[Run], goal: Goal, history: Collection[str]) -> int:
    """How often the last runs of this kind and user, at commits of this history, passed without a failure between."""
    count = 0
    for run in runs:
        if (run.what, run.user) == (goal.what, goal.user) and run.commit.partition("+")[0] in history:
            count = 0 if run.failed else count + 1
    return count


def read_log(log: Path) -> list[Run]:
    """The runs in the log, oldest first; a half-written last line is left out."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    return [Run(**json.loads(line)["stress"]) for line in lines]


def commit_name() -> str:
    """The commit, with a digest of what was changed since, the log aside; a copy without git is "unknown"."""
    with suppress(subprocess.CalledProcessError, FileNotFoundError):
        commit = _git("rev-parse", "--short=12", "HEAD").strip()
        changes = _git("diff", "HEAD", "--", ".", f":(exclude){LOG.relative_to(ROOT)}")
        return f"{commit}+{hashlib.sha256(changes.encode()).hexdigest()[:8]}" if changes else commit
    return "unknown"


def commits_until_now() -> frozenset[str]:
    """This commit and those that it grew from, as `commit_name` writes them without changes."""
    with suppress(subprocess.CalledProcessError, FileNotFoundError):
        return frozenset(commit[:12] for commit in _git("rev-list", "HEAD").split())
    return frozenset({"unknown"})


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """So many processes that only count, for as long as the block runs."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


class Runner:
    """Runs pytest as this user or another one, and writes the log."""

    def __init__(self, log: Path, commit: str, *, tests: Sequence[str]) -> None:
        self._log = log
        self._commit = commit
        self._tests = list(tests)
        self._others: dict[str, OtherUser] = {}
        self._folder = Path(tempfile.mkdtemp(prefix="stress-"))

    def close(self) -> None:
        """Remove the copies."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def run(self, goal: Goal, number: int) -> Run:
        """One run, with its line in the log."""
        began = time.monotonic()
        with busy_processes(BUSY_PROCESSES if goal.what == "timing" else 0):
            passed, failed, skipped = self._pytest(goal, number)
        seconds = round(time.monotonic() - began, 1)
        run = Run(goal.what, goal.user, number, passed, failed, skipped, seconds, self._commit)
        with self._log.open("a") as file:
            file.write(json.dumps({"stress": asdict(run)}) + "\n")
        return run

    def _pytest(self, goal: Goal, number: int) -> tuple[int, int, int]:
        OUTPUTS.mkdir(exist_ok=True)
        output = OUTPUTS / f"{self._log.stem}-{goal.what}-{goal.user}-{number}.txt"
        python, tree, arguments, folder = self._surroundings(goal.user)
        report = folder / "report.xml"
        report.unlink(missing_ok=True)
        command = [str(python), "-m", "pytest", "-q", "-m", SELECTED[goal.what], "-n", "2", "--dist", "worksteal",
                   "-p", "no:cacheprovider", f"--junitxml={report}", *self._tests]  # fmt: skip
        with output.open("wb") as file:
            process = subprocess.Popen(
                command, cwd=tree, stdout=file, stderr=subprocess.STDOUT, start_new_session=True, **arguments
            )
            code = wait_for(process)
        passed, failed, skipped = counted(report)
        if code == 0:
            output.unlink()
        return passed, failed if code == 0 else max(failed, 1), skipped

    def _surroundings(self, user: str) -> tuple[Path, Path, dict[str, Any], Path]:
        """Interpreter, tree, arguments of Popen, and a folder that the user can write to."""
        if user == getpass.getuser():
            return Path(sys.executable), ROOT, {"env": os.environ | VARIABLES | {"PYTHONPATH": str(ROOT)}}, self._folder
        if user not in self._others:
            say(f"copying the tree for {user}")
            self._folder.chmod(0o755)
            (self._folder / user).mkdir()
            self._others[user] = OtherUser(user, self._folder / user)
            self._others[user].environment |= VARIABLES
        other = self._others[user]
        return other.python, other.tree, other.as_popen_arguments(), self._folder / user


def wait_for(process: subprocess.Popen[bytes]) -> int:
    """pytest's exit code; one that runs for too long is interrupted, then killed, with all that it started."""
    try:
        return process.wait(RUN_LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        _end(process)
        return -1
    except BaseException:
        _end(process)
        raise


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt it, and kill it if it goes on: a process that a shell starts in the background ignores SIGINT."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)


def counted(report: Path) -> tuple[int, int, int]:
    """Passed, failed (errors too) and skipped tests in a JUnit report; nothing if the report is missing."""
    if not report.exists():
        return 0, 0, 0
    suites = list(ElementTree.parse(report).getroot().iter("testsuite"))
    tests, failures, errors, skipped = (
        sum(int(suite.get(name, 0)) for suite in suites) for name in ("tests", "failures", "errors", "skipped")
    )
    return tests - failures - errors - skipped, failures + errors, skipped


def next_goal(plan: Sequence[Goal], runs: Sequence[Run], history: Collection[str]) -> tuple[Goal, int] | None:
    """The goal of which the smallest share is shown, with the runs it has; None if all are reached.

    In turn, so that a session that ends early has run something of every kind and as every user.
    """
    done = [(goal, in_a_row(runs, goal, history)) for goal in plan]
    missing = [(goal, count) for goal, count in done if count < goal.times]
    return min(missing, key=lambda pair: pair[1] / pair[0].times, default=None)


def work(plan: Sequence[Goal], runner: Runner, *, log: Path, history: Collection[str], until: float) -> int:
    """Run until every goal is reached, a run fails, or the time is over; returns the exit code."""
    while (pair := next_goal(plan, read_log(log), history)) is not None:
        goal, done = pair
        if time.monotonic() > until:
            return CODE_TO_DO
        run = runner.run(goal, done + 1)
        say(f"{goal.what} {done + 1}/{goal.times} as {goal.user}: {run.passed} passed, {run.failed} failed, "
            f"{run.skipped} skipped in {run.seconds:g} s")  # fmt: skip
        if run.failed:
            return CODE_FAILED
    return CODE_SHOWN


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description="Run the tests until they have passed often enough in a row.",
        epilog="examples: python -m tools.stress --minutes 50;  "
        "python -m tools.stress --log quick.jsonl --only timing tests/integration/test_worker_life.py",
    )
    parser.add_argument("tests", nargs="*", help="files or folders for pytest (default: all)")
    parser.add_argument("--log", type=Path, default=LOG, help="one JSON line a run is added here, and counted again")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="start no run after these (default: none)")
    parser.add_argument("--user", default="nobody", help="the other user (default: nobody)")
    parser.add_argument("--only", choices=sorted(SELECTED), help="only the tests with timing, or only the whole suite")
    parser.add_argument("--status", action="store_true", help="run nothing; say what is still to do")
    return parser.parse_args()


def main() -> int:
    """Run the tests until the goals are met or a run fails; returns the exit code."""
    chosen = options()
    log: Path = chosen.log.absolute()
    other = chosen.user if os.geteuid() == 0 else None
    plan = [goal for goal in goals(getpass.getuser(), other) if chosen.only in (None, goal.what)]
    commit, history = commit_name(), commits_until_now()
    code = CODE_TO_DO
    if not chosen.status:
        runner = Runner(log, commit, tests=chosen.tests)
        try:
            until = time.monotonic() + 60 * chosen.minutes
            code = work(plan, runner, log=log, history=history, until=until)
        finally:
            runner.close()
    runs = read_log(log)
    shown = [asdict(goal) | {"in_a_row": in_a_row(runs, goal, history)} for goal in plan]
    if chosen.status and all(goal["in_a_row"] >= goal["times"] for goal in shown):
        code = CODE_SHOWN
    print(json.dumps({"stress": {"commit": commit, "one_user": other is None, "goals": shown}}))
    return code


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started here is stopped too
    sys.exit(main())
