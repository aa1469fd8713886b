"""Worker processes for tests: started afresh as in tools/worker_process.py, or forked from a template."""

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
from functools import cache
from pathlib import Path

from tools.worker_process import ROOT, WorkerProcess, log_events

__all__ = ["ROOT", "ForkedWorker", "WorkerProcess", "log_events"]


class ForkedWorker(WorkerProcess):
    """A worker with stub engines that starts in a quarter of the time; see tests/worker_template.py."""

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str], *, own_session: bool) -> ForkedProcess:
        assert not own_session, "a forked worker is in the session of the tests"
        return Template.running().fork(arguments, environment, self.log)


class ForkedProcess:
    """subprocess.Popen's interface for a child of the template."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
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
            raise subprocess.TimeoutExpired("a forked worker", timeout or 0.0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it has ended."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Template:
    """The one template process of these tests, started when first needed. It ends with them."""

    def __init__(self) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.worker_template", str(theirs.fileno())],
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
    def running() -> Template:
        """Start it if it does not run yet."""
        return Template()

    def close(self) -> None:
        """End it. Workers that still run go on."""
        self._channel.shutdown(socket.SHUT_RDWR)
        self._process.wait()

    def fork(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> ForkedProcess:
        """Start `python -m celery <arguments>` with this environment, whose output goes to the end of a file."""
        request = {"arguments": arguments, "environment": environment, "log": str(log)}
        with self._forking:
            self._channel.sendall(json.dumps(request).encode() + b"\n")
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
