"""The command line, as a stranger types it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from engines import cli, console
from jobs.storage import s3
from tests.odd_s3_store import OddStore, odd_store


class Ended(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def engines(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Runs one command line; stderr without its line breaks and boxes."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["engines", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", "200")
        monkeypatch.setattr(console.people, "width", 200)
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        caught = capsys.readouterr()
        return Ended(code, caught.out, " ".join(caught.err.replace("│", " ").split()))

    return run


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OddStore]:
    """A store that this process and those that it starts use."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    with odd_store() as store:
        variables = {
            "AWS_ENDPOINT_URL_S3": store.url,
            "AWS_ACCESS_KEY_ID": "id",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(tmp_path / "none"),
            "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        }
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        s3.forget_client()
        yield store
    s3.forget_client()
