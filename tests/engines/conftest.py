"""The command line, as a stranger types it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import NamedTuple

import pytest

from engines import cli


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
        monkeypatch.setattr(cli.people, "width", 200)
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        caught = capsys.readouterr()
        return Ended(code, caught.out, " ".join(caught.err.replace("│", " ").split()))

    return run
