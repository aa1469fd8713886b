"""Our programs as processes of their own that start in a quarter of the time: forked from a template.

A fork shows nothing about imports, nor about what Python itself does at its start: the encoding of names and streams,
streams that are closed. tests/worker_template.py has the other end.
"""

from __future__ import annotations

import atexit
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import IO, Literal

from tools import ROOT

Kind = Literal["programs", "torch"]  # what the template has imported
Streams = tuple[int, int, int]  # the descriptors that become stdin, stdout and stderr
NOBODY_KNOWS = -99  # the exit code of a program whose template has ended before it; no signal has this number


class ForkedProcess:
    """subprocess.Popen's interface for a child of the template."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        self.stderr: IO[str] | None = None
        self._ended = threading.Event()

    def end(self, code: int) -> None:
        """The template has seen it end."""
        self.returncode = code
        self._ended.set()

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        if not self._ended.wait(timeout):
            raise subprocess.TimeoutExpired("a forked program", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it still prints on its pipes, and its end. A stream without a pipe gives an empty text.

        Raises:
            subprocess.TimeoutExpired: it still runs.
        """
        with ThreadPoolExecutor(2) as readers:
            texts = [readers.submit(pipe.read if pipe else str) for pipe in (self.stdout, self.stderr)]
            try:
                self.wait(timeout)
            except subprocess.TimeoutExpired:
                self.kill()  # or the readers would wait for ever
                raise
            read = texts[0].result(), texts[1].result()
        self._close()
        return read

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):  # it has ended, and the template has not said so yet
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def __enter__(self) -> ForkedProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the pipes, and wait for its end."""
        self._close()
        self.wait()

    def _close(self) -> None:
        for pipe in filter(None, (self.stdout, self.stderr)):
            pipe.close()


def start(
    module: str,
    *arguments: object,
    environment: Mapping[str, str] | None = None,
    folder: Path = ROOT,
    stderr: int | None = None,
    kind: Kind = "programs",
) -> ForkedProcess:
    """`python -m MODULE ARGUMENTS` with nothing on its stdin, and pipes for what it prints.

    `environment` is added to that of the tests. `stderr` is a descriptor that takes the place of the second pipe.
    """
    with ExitStack() as stack:
        nothing = stack.enter_context(Path(os.devnull).open("rb"))
        printed, out = os.pipe()
        stack.callback(os.close, out)
        said = None
        if stderr is None:
            said, stderr = os.pipe()
            stack.callback(os.close, stderr)
        process = Template.running(kind).fork(
            module,
            [str(argument) for argument in arguments],
            {**os.environ, **(environment or {})},
            folder=folder,
            streams=(nothing.fileno(), out, stderr),
        )
    process.stdout = os.fdopen(printed, encoding="utf-8")
    process.stderr = None if said is None else os.fdopen(said, encoding="utf-8")
    return process


def run(
    module: str, *arguments: object, environment: Mapping[str, str] | None = None, folder: Path = ROOT
) -> subprocess.CompletedProcess[str]:
    """`start`, and wait for the end, for two minutes."""
    with start(module, *arguments, environment=environment, folder=folder) as process:
        stdout, stderr = process.communicate(timeout=120)
    assert process.returncode is not None
    return subprocess.CompletedProcess([module, *map(str, arguments)], process.returncode, stdout, stderr)


class Template:
    """One of the template processes of these tests, started when first needed. It ends with them."""

    def __init__(self, kind: Kind) -> None:
        self._channel, theirs = socket.socketpair()
        self._at_start = _read_at_start(os.environ)  # of the test that comes first, which may have its own
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker_template", str(theirs.fileno()), kind],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        self._forking = threading.Lock()
        self._forked: queue.SimpleQueue[ForkedProcess] = queue.SimpleQueue()
        threading.Thread(target=self._listen, name="worker-template", daemon=True).start()
        atexit.register(self.close)

    @staticmethod
    @cache
    def running(kind: Kind) -> Template:
        """Start it if it does not run yet."""
        return Template(kind)

    def close(self) -> None:
        """End it. Programs that still run go on."""
        self._channel.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def fork(
        self, module: str, arguments: Sequence[str], environment: Mapping[str, str], *, folder: Path, streams: Streams
    ) -> ForkedProcess:
        """Start `python -m MODULE ARGUMENTS` in a folder, with this environment and these streams."""
        assert _read_at_start(environment).items() <= self._at_start.items(), "Python reads these at its start"
        request = {
            "module": module,
            "arguments": arguments,
            "environment": dict(environment),
            "folder": str(folder),
        }
        with self._forking:
            socket.send_fds(self._channel, [json.dumps(request).encode() + b"\n"], streams)
            return self._forked.get(timeout=60)

    def _listen(self) -> None:
        children: dict[int, ForkedProcess] = {}
        for line in self._channel.makefile("rb"):
            said = json.loads(line)
            if said["code"] is None:
                child = children[said["pid"]] = ForkedProcess(said["pid"])
                self._forked.put(child)
            else:
                children.pop(said["pid"]).end(said["code"])
        for child in children.values():  # nobody will say how they end: whoever waits for one must not wait for ever
            child.end(NOBODY_KNOWS)


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


_READ_AT_START = ("PYTHONIOENCODING", "PYTHONUTF8", "PYTHONHASHSEED", "PYTHONWARNINGS", "LC_", "LANG")
