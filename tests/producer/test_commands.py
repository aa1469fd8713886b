"""`producer status`, `results`, `retry`, `cancel`, `reconcile` and the help pages, against a real Redis."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from producer.exits import Exit
from tests.producer.conftest import Run
from tests.producer.renderer import render_batch
from tests.producer.tables import write

COMMANDS = ["submit", "status", "results", "retry", "cancel", "gallery", "reconcile", "delete", "prune"]
ON_A_BATCH = [
    ["status", "nightly"],
    ["results", "nightly"],
    ["retry", "nightly"],
    ["cancel", "nightly"],
    ["reconcile", "nightly"],
    ["gallery", "nightly", "--out", "page"],
    ["delete", "nightly", "--yes"],
    ["delete", "nightly", "--results", "--yes"],
]


@pytest.fixture
def submitted(run: Run, tmp_path: Path) -> None:
    """A batch `jobs` of four rows."""
    write(tmp_path, "image,prompt\n" + "".join(f"{name}.png,picture {name}\n" for name in "abcd"))
    assert run("submit", "jobs.csv").code == 0


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_exit_codes(run: Run, command: str) -> None:
    ran = run(command, "--help")
    assert ran.code == 0
    assert f"    producer {command}" in ran.stdout
    assert "Exit codes:\n      0  all is well" in ran.stdout


def test_the_help_names_every_command(run: Run) -> None:
    ran = run("--help")
    assert all(command in ran.stdout for command in COMMANDS)


def test_exit_codes_are_all_explained_in_submits_help(run: Run) -> None:
    shown = run("submit", "--help").stdout
    assert all(f" {int(code)}  " in shown for code in Exit)


@pytest.mark.parametrize("arguments", [["--help"], ["submit", "--help"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    # Typer itself may bring pydantic.
    assert not imported_by(arguments) & {"torch", "celery", "kombu", "numpy", "cv2", "redis", "rich", "boto3", "jobs"}


def test_submit_imports_neither_torch_nor_celery(tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\na.png,x\n")
    names = imported_by(["submit", str(tmp_path / "jobs.csv"), "--dry-run"])
    assert not names & {"torch", "celery", "kombu", "numpy", "cv2", "worker", "engines"}
    assert "pydantic" in names  # it did run


def imported_by(arguments: list[str]) -> set[str]:
    """Top-level names in sys.modules of a fresh process that has run the command line."""
    code = (
        "import atexit, json, sys\n"
        "atexit.register(lambda: print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules}))))\n"
        f"sys.argv = ['producer', *{arguments!r}]\n"
        "from producer.cli import main\n"
        "main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("arguments", ON_A_BATCH)
def test_an_unknown_batch_has_its_own_exit_code_and_names_the_known_ones(
    run: Run, submitted: None, arguments: list[str]
) -> None:
    ran = run(*arguments)
    assert ran.code == 5
    assert "there is no batch 'nightly'; known batches: jobs" in ran.stderr


def test_an_unknown_batch_on_an_empty_redis_is_explained(run: Run) -> None:
    assert "nothing has been submitted to this Redis yet" in run("status", "nightly").stderr


def test_status_shows_every_batch(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs", failing={2})
    run("submit", "jobs.csv", "--batch", "other")
    ran = run("status")
    assert (ran.code, [record["batch"] for record in ran.records]) == (0, ["other", "jobs"])
    assert [line.split()[:7] for line in ran.stderr.splitlines() if line.startswith(("jobs", "other"))] == [
        ["other", "4", "4", "0", "0", "0", "0"],
        ["jobs", "4", "0", "0", "3", "1", "0"],
    ]
    assert "No worker is at work." in ran.stderr


def test_status_as_json_has_counts_and_workers(run: Run, ledger: Ledger, submitted: None) -> None:
    ledger.beat("gpu@1", in_flight=["x", "y"], lease_seconds=60)
    (record,) = run("status", "--json").records
    assert (record["batch"], record["total"], record["counts"]["queued"]) == ("jobs", 4, 4)
    assert record["workers"] == {"gpu@1": 2}


def test_status_on_an_empty_redis_is_no_error(run: Run) -> None:
    ran = run("status")
    assert (ran.code, ran.stderr.strip()) == (0, "Nothing has been submitted to this Redis yet.")


def test_watching_a_finished_batch_ends_at_once(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs")
    ran = run("status", "jobs", "--watch", "--json")
    assert (ran.code, ran.record["counts"]["done"]) == (0, 4)


def test_watching_a_batch_with_failures_ends_with_one(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs", failing={3})
    ran = run("status", "jobs", "--watch")
    assert (ran.code, "row 3 failed" in ran.stderr) == (1, True)


def test_results_come_as_json_lines_in_row_order(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs", failing={2})
    records = run("results", "jobs").records
    assert [(record["row"], record["state"]) for record in records] == [
        (1, "done"),
        (2, "failed"),
        (3, "done"),
        (4, "done"),
    ]
    assert records[1]["error"] == "no such picture"
    assert not {"parameters", "built_with"} & records[0].keys()  # only sidecars have them


def test_results_can_be_narrowed_to_a_state(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs", failing={2})
    assert [record["row"] for record in run("results", "jobs", "--state", "failed").records] == [2]


def test_results_as_csv_have_a_header_and_one_row_a_job(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs", failing={2})
    rows = list(csv.DictReader(io.StringIO(run("results", "jobs", "--format", "csv").stdout)))
    assert [row["row"] for row in rows] == ["1", "2", "3", "4"]
    assert rows[0]["samples"].endswith("_0.png")
    assert (rows[1]["error_kind"], rows[1]["samples"]) == ("source_not_found", "")
    assert list(rows[0])[-1] == "model_name"  # no column that only sidecars could fill


def test_results_say_when_more_is_to_come(run: Run, submitted: None) -> None:
    ran = run("results", "jobs")
    assert (ran.stdout, "4 jobs have not ended yet" in ran.stderr) == ("", True)


def test_retry_queues_failed_jobs_again(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs", failing={2, 3})
    assert run("retry", "jobs").record == {"batch": "jobs", "queued": 2}
    assert ledger.counts("jobs") == Counts(queued=2, done=2)


def test_retry_can_be_narrowed(run: Run, ledger: Ledger, submitted: None) -> None:
    run("cancel", "jobs")
    assert run("retry", "jobs", "--only", "failed").record["queued"] == 0
    assert run("retry", "jobs", "--only", "cancelled").record["queued"] == 4


def test_cancel_ends_what_is_queued_and_keeps_what_is_done(run: Run, ledger: Ledger, submitted: None) -> None:
    render_batch(ledger, "jobs")
    run("submit", "jobs.csv", "--batch", "other")
    assert run("cancel", "other").record == {"batch": "other", "cancelled": 4, "stopping": 0}
    assert run("cancel", "jobs").record["cancelled"] == 0
    assert ledger.counts("jobs").done == 4


def test_cancel_takes_one_job(run: Run, ledger: Ledger, submitted: None) -> None:
    line = next(ledger.states("jobs"))
    assert run("cancel", "jobs", line.id).record["cancelled"] == 1
    assert ledger.counts("jobs").queued == 3


def test_cancelled_messages_leave_the_queue_with_all_their_copies(run: Run, ledger: Ledger, submitted: None) -> None:
    run("submit", "jobs.csv", "--batch", "other")
    run("cancel", "jobs")
    assert ledger.queue_length() == 4
    run("retry", "jobs")
    ledger.cancel("jobs")  # as earlier versions cancel: the messages stay
    run("retry", "jobs")
    assert ledger.queue_length() == 12
    run("cancel", "jobs")
    assert ledger.queue_length() == 4
    line = next(ledger.states("other"))
    run("cancel", "other", line.id)
    assert ledger.queue_length() == 3
    assert line.id not in list(ledger.kombu.queued_ids())


def test_the_messages_of_corrected_rows_leave_the_queue(
    run: Run, ledger: Ledger, submitted: None, tmp_path: Path
) -> None:
    text = (tmp_path / "jobs.csv").read_text()
    (tmp_path / "jobs.csv").write_text(text.replace("picture", "drawing"))
    assert run("submit", "jobs.csv").record["replaced"] > 0
    assert ledger.queue_length() == ledger.counts("jobs").queued == 4


def test_cancel_refuses_an_unknown_job(run: Run, submitted: None) -> None:
    ran = run("cancel", "jobs", "0" * 20)
    assert (ran.code, f"batch 'jobs' has no job '{'0' * 20}'" in ran.stderr) == (5, True)


def test_reconcile_queues_a_lost_message_again(run: Run, ledger: Ledger, submitted: None) -> None:
    ledger.client.rpop(ledger.queue)
    assert run("reconcile").record == {"batch": None, "restored": 0, "requeued": 1}
    assert ledger.client.llen(ledger.queue) == 4


def test_a_running_redis_of_another_kind_of_data_is_named(run: Run, ledger: Ledger) -> None:
    ledger.client.set("render:batches", "not a hash")
    ran = run("status")
    assert (ran.code, "WRONGTYPE" in ran.stderr) == (4, True)
