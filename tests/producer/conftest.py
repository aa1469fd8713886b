"""The command line against a real, empty Redis."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from producer.cli import app


@dataclass(frozen=True)
class Ran:
    """A command's end: its exit code, its JSON lines on stdout and its words on stderr."""

    code: int
    stdout: str
    stderr: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stdout.splitlines()]

    @property
    def record(self) -> dict[str, Any]:
        (record,) = self.records
        return record


Run = Callable[..., Ran]


@pytest.fixture
def run(redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """`run("submit", "jobs.csv")`, in a folder of the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RENDER_REDIS_URL", redis_url)
    monkeypatch.setenv("RENDER_OUTPUT_URI", "renders")

    def run(*arguments: object, stdin: str | bytes | None = None) -> Ran:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)

    return run
