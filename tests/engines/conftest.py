"""The command line, as a stranger types it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from engines import cli, console
from tests.odd_s3_store import OddStore
from tests.own_s3_store import own_odd_store


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
    with own_odd_store(monkeypatch, tmp_path) as store:
        yield store
