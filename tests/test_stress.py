"""What tools/stress.py counts as shown."""

from __future__ import annotations

import json
import signal
import subprocess
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tools import stress
from tools.stress import (
    Goal,
    Run,
    commit_name,
    commits_until_now,
    counted,
    goals,
    in_a_row,
    next_goal,
    read_log,
)

PASSED = Run("timing", "root", number=1, passed=9, failed=0, skipped=1, seconds=1.5, commit="abc")
FAILED = replace(PASSED, failed=1)
GOAL = Goal("timing", "root", 5)


def test_a_failure_begins_the_count_anew() -> None:
    assert in_a_row([PASSED, PASSED, FAILED, PASSED], GOAL, {"abc"}) == 1
    assert in_a_row([PASSED, FAILED], GOAL, {"abc"}) == 0


def test_only_runs_of_this_kind_user_and_history_count() -> None:
    others = [replace(PASSED, what="suite"), replace(FAILED, user="nobody"), replace(FAILED, commit="elsewhere")]
    assert in_a_row([PASSED, *others, PASSED], GOAL, {"abc"}) == 2


def test_runs_at_earlier_commits_of_this_history_count_and_so_do_their_failures() -> None:
    earlier, changed = replace(PASSED, commit="earlier"), replace(PASSED, commit="abc+12345678")
    assert in_a_row([earlier, PASSED, changed], GOAL, {"earlier", "abc"}) == 3
    assert in_a_row([PASSED, replace(FAILED, commit="earlier"), PASSED], GOAL, {"earlier", "abc"}) == 1


def test_the_history_holds_the_commit_that_runs_are_logged_with() -> None:
    assert commit_name().partition("+")[0] in commits_until_now()


def test_both_users_share_the_ten_runs_and_one_user_alone_gets_them_all() -> None:
    for plan in (goals("root", "nobody"), goals("me", None)):
        assert sum(goal.times for goal in plan if goal.what == "timing") == 10


def test_the_log_is_read_back_without_a_half_written_line(tmp_path: Path) -> None:
    log = tmp_path / "stress.jsonl"
    assert read_log(log) == []
    log.write_text("".join(json.dumps({"stress": asdict(run)}) + "\n" for run in (PASSED, FAILED)) + '{"stress": {"wh')
    assert read_log(log) == [PASSED, FAILED]


def test_errors_count_as_failures(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    assert counted(report) == (0, 0, 0)
    report.write_text('<testsuites><testsuite tests="9" failures="1" errors="2" skipped="3"/></testsuites>')
    assert counted(report) == (3, 3, 3)


def test_kinds_and_users_take_turns() -> None:
    plan = [Goal("timing", "root", 2), Goal("timing", "nobody", 2), Goal("suite", "root", 1)]
    runs: list[Run] = []
    order = []
    while (pair := next_goal(plan, runs, {"c1"})) is not None:
        goal, done = pair
        order.append((goal.what, goal.user, done))
        runs.append(replace(PASSED, what=goal.what, user=goal.user, commit="c1"))
    assert order == [
        ("timing", "root", 0),
        ("timing", "nobody", 0),
        ("suite", "root", 0),
        ("timing", "root", 1),
        ("timing", "nobody", 1),
    ]


def test_a_run_that_does_not_hear_an_interrupt_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a shell's background, where what is started ignores SIGINT."""
    monkeypatch.setattr(stress, "STOP_SECONDS", 0.1)
    monkeypatch.setattr(stress, "RUN_LIMIT_SECONDS", 0.1)
    with subprocess.Popen(["sh", "-c", "trap '' INT; sleep 600"], start_new_session=True) as deaf:
        assert stress.wait_for(deaf) == -1
    assert deaf.returncode == -signal.SIGKILL
