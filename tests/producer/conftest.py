"""The command line against a real, empty Redis, and a bucket of our own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from jobs.storage import s3
from producer.cli import app
from tests.odd_s3_store import OddStore, odd_store


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


@pytest.fixture(autouse=True, scope="session")
def command_line_made_once() -> Iterator[None]:
    """Typer reads the signatures of all commands for each invocation: half of the time that a short command takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("typer.testing._get_command", cache(get_command))
        yield


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


@pytest.fixture(scope="module")
def store_of_module() -> Iterator[OddStore]:
    """One server, and one client of boto3, for all tests of a module: making a client takes a second."""
    with odd_store() as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL_S3", store.url)
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.delenv("AWS_PROFILE", raising=False)
        s3.forget_client()
        yield store
    s3.forget_client()


@pytest.fixture
def empty_store(store_of_module: OddStore) -> OddStore:
    """The store without objects, and with the habits of a new one."""
    vars(store_of_module).update(vars(OddStore()) | {"url": store_of_module.url})
    return store_of_module
