"""Where JSON goes, and what becomes of characters that the output's encoding lacks."""

from __future__ import annotations

import json
import os
import re
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
    # First where it was imported by name: or else results, imported by the test, would keep this one for ever.
    monkeypatch.setattr("producer.results.to_terminal", lambda: True)
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


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        ("status >&-", 0, ""),
        ("status --json >&-", 0, ""),
        ("results jobs >&-", 6, "standard output is closed"),
        ("results jobs --json >&-", 6, "standard output is closed"),
        ("status jobs 2>&-", 0, ""),
        ("submit gone.csv 2>&-", 5, ""),
        ("results jobs >&- 2>&-", 6, ""),
        ("results jobs > /dev/full", 6, "standard output: No space left on device"),
        ("status jobs > /dev/full", 6, "standard output: No space left on device"),
        ("results jobs | true", 141, ""),
        ("status jobs | true", 141, ""),
    ],
)
def test_an_output_that_is_closed_or_full_ends_in_a_sentence(
    done: None, tmp_path: Path, command: str, code: int, sentence: str
) -> None:
    arguments = re.split(r" 2?>| \|", command)[0]
    redirection = command[len(arguments) :].replace("| true", "| { exec <&-; echo > gone; }")
    # The pipe has no reader by the time when the command begins.
    waiting = "until [ -e gone ]; do sleep 0.01; done; " if "|" in redirection else ""
    program = f"{{ {waiting}{sys.executable} -m producer {arguments}; }} {redirection}"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", program],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == code, ended.stderr
    assert sentence in ended.stderr
    assert "Traceback" not in ended.stderr
    assert "Exception ignored" not in ended.stderr


def test_csv_on_a_terminal_holds_no_control_characters(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\na.png,a \x1b[31mred\x07 cat\n")
    assert run("submit", "jobs.csv").code == 0
    render_batch(ledger, "jobs")
    shown = on_terminal(tmp_path, "results", "jobs", "--format", "csv", columns=500).text
    assert ("\x07" in shown, "a \ufffd[31mred\ufffd cat" in shown) == (False, True)
    assert "a \x1b[31mred\x07 cat" in run("results", "jobs", "--format", "csv").stdout


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
