"""Programs that are forked from a template: their ends are told, also when something goes wrong."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.forked import NOBODY_KNOWS, ForkedProcess, Template, start
from tools import ROOT


def test_a_signal_for_a_program_that_has_just_ended_is_no_error() -> None:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    process = ForkedProcess(ended.pid)  # as between its end and the template's word of it
    process.terminate()
    process.kill()


def test_exit_codes_and_what_is_printed_are_those_of_the_program() -> None:
    with start("producer", "no-such-command") as process:
        stdout, stderr = process.communicate(60)
    assert (process.returncode, stdout) == (2, "")
    assert "no-such-command" in stderr


def test_what_python_reads_at_its_start_must_be_that_of_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    Template.running("programs")
    monkeypatch.setenv("LC_ALL", "C.of-one-test")
    with pytest.raises(AssertionError, match="at its start"):
        start("producer", "--help")


def test_nobody_waits_for_ever_for_a_program_whose_template_is_gone() -> None:
    template = Template("programs")
    with Path(os.devnull).open("r+b") as nothing:
        server = ["0", "--bind", "127.0.0.1"]
        streams = (nothing.fileno(),) * 3
        process = template.fork("http.server", server, dict(os.environ), folder=ROOT, streams=streams)
    template._process.kill()
    assert process.wait(60) == NOBODY_KNOWS
    os.kill(process.pid, signal.SIGKILL)
