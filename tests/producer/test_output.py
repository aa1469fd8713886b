"""Where JSON goes, and what becomes of characters that the output's encoding lacks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.ledger.ledger import Ledger
from tests.producer.conftest import Run
from tests.producer.renderer import png, render_batch
from tests.producer.tables import write
from tests.producer.terminal import on_terminal

PROMPT = "naïve 猫 \N{CAT FACE} ﷽"
ON_A_BATCH = [
    ["status"],
    ["status", "jobs"],
    ["status", "jobs", "--watch"],
    ["status", "--watch"],
    ["status", "--workers"],
    ["retry", "jobs"],
    ["cancel", "jobs"],
    ["reconcile"],
    ["gallery", "jobs", "--out", "page"],
    ["submit", "jobs.csv"],
    ["submit", "jobs.csv", "--dry-run"],
    ["submit", "jobs.csv", "--wait"],
    ["results", "jobs"],
]
ENCODINGS = [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}]


@pytest.fixture
def done(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    """A batch of two rows that are done, with a prompt in several scripts, and a worker."""
    (tmp_path / "phöto.png").write_bytes(png("orange"))
    write(tmp_path, f"image,prompt\nphöto.png,{PROMPT}\nphöto.png,a cat\n")
    assert run("submit", "jobs.csv").code == 0
    render_batch(ledger, "jobs", failing={2}, error=f"no {PROMPT}")
    ledger.beat("gpu-1", in_flight=[], lease_seconds=600)


@pytest.fixture
def at_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a person read stdout."""
    monkeypatch.setattr("producer.output.to_terminal", lambda: True)


@pytest.mark.parametrize("arguments", ON_A_BATCH, ids=" ".join)
def test_a_terminal_gets_no_json(run: Run, done: None, at_terminal: None, arguments: list[str]) -> None:
    ran = run(*arguments)
    assert "{" not in ran.stdout
    assert (ran.stdout + ran.stderr).strip()


@pytest.mark.parametrize("arguments", ON_A_BATCH, ids=" ".join)
def test_a_terminal_gets_json_that_was_asked_for(run: Run, done: None, at_terminal: None, arguments: list[str]) -> None:
    assert run(*arguments, "--json").records or arguments == ["status", "--watch"]  # nothing is left to watch


def test_what_a_person_sees_of_a_batch_is_no_json(done: None, tmp_path: Path) -> None:
    shown = on_terminal(tmp_path, "status", "jobs")
    assert (shown.code, "{" in shown.text, "1 worker at work" in shown.text) == (0, False, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["results", "jobs", "--format", "csv"],
        ["results", "jobs", "--format", "text"],
        ["status", "jobs"],
        ["gallery", "jobs", "--out", "page"],
        ["status", "n\N{LATIN SMALL LETTER AE}me"],
    ],
    ids=" ".join,
)
def test_an_output_of_another_encoding_is_escaped(done: None, tmp_path: Path, arguments: list[str]) -> None:
    ended = produced(tmp_path, ENCODINGS[0], arguments)
    assert b"Traceback" not in ended.stderr
    assert (ended.stdout + ended.stderr).isascii()
    assert ended.returncode in (0, 5)


@pytest.mark.parametrize("environment", ENCODINGS, ids=str)
def test_json_keeps_every_character(done: None, tmp_path: Path, environment: dict[str, str]) -> None:
    records = [json.loads(line) for line in produced(tmp_path, environment, ["results", "jobs"]).stdout.splitlines()]
    assert [record["prompt"] for record in records] == [PROMPT, "a cat"]


def test_results_on_a_terminal_are_lines_for_people(done: None, tmp_path: Path) -> None:
    lines = on_terminal(tmp_path, "results", "jobs", columns=500).text.splitlines()
    assert lines[0].startswith("row 1  done")
    assert lines[1].startswith("row 2  failed     source_not_found: no naïve 猫")


def test_json_and_another_format_are_refused(run: Run, done: None) -> None:
    ran = run("results", "jobs", "--json", "--format", "csv")
    assert (ran.code, "--json means --format jsonl, not csv" in ran.stderr) == (2, True)


def produced(folder: Path, environment: dict[str, str], arguments: list[str]) -> subprocess.CompletedProcess[bytes]:
    """The command with both streams on pipes."""
    return subprocess.run(
        [sys.executable, "-m", "producer", *arguments],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment,
        cwd=folder,
        capture_output=True,
        timeout=60,
        check=False,
    )
