"""Start a real worker process and read its log: for the tests, the benchmarks, chaos and the demo."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from tools import ROOT

POLL_SECONDS = 0.05


class WorkerNotStarted(RuntimeError):
    """The worker ended, or was not ready in time; the text holds the end of its log."""


class Process(Protocol):
    """What is needed of subprocess.Popen."""

    @property
    def pid(self) -> int: ...
    @property
    def returncode(self) -> int | None: ...
    def poll(self) -> int | None: ...
    def wait(self, timeout: float | None = None, /) -> int: ...
    def send_signal(self, number: int, /) -> None: ...
    def kill(self) -> None: ...


class WorkerProcess:
    """`celery -A <app> worker --concurrency 1`, and the log that it writes.

    As a context manager it kills the worker at the end, if it still runs; `stop` ends it as an operator would.
    """

    def __init__(
        self,
        app: str = "worker",
        *,
        environment: Mapping[str, str],
        log: Path,
        name: str | None = None,
        arguments: Sequence[str] = (),
        own_session: bool = False,
    ) -> None:
        """`environment` is added to this process's; `log` is appended to; `name` is needed for several on one host.

        `arguments` are further options of `celery worker`; a --concurrency or --logfile among them wins.

        With a session of its own the worker does not hear the Ctrl-C that is meant for the program that started it.
        """
        self.log = log
        command = ["-A", app, "worker", "--concurrency", "1", *(["-n", f"{name}@%h"] if name else []), *arguments]
        self._process = self._start(command, {**os.environ, **environment}, own_session=own_session)

    def _start(self, arguments: Sequence[str], environment: Mapping[str, str], *, own_session: bool) -> Process:
        """Start `celery <arguments>` with this environment, and its output at the end of the log."""
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [sys.executable, "-m", "celery", *arguments],
                cwd=ROOT,
                env=environment,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=own_session,
            )

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._process.pid

    @property
    def output(self) -> str:
        """All that it has printed; the last line may be half written."""
        return self.log.read_text(errors="replace")

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def events(self, name: str | None = None) -> list[dict[str, Any]]:
        """The log events so far, oldest first: all of them, or those of one name."""
        return [event for event in log_events(self.log) if name is None or event["event"] == name]

    def wait_until_started(self, *, seconds: float) -> None:
        """Wait until its engines are loaded and it takes jobs.

        Raises:
            WorkerNotStarted: it ended, or it takes longer than `seconds`.
        """
        deadline = time.monotonic() + seconds
        while not self.events("worker_started"):
            if not self.alive or time.monotonic() > deadline:
                raise WorkerNotStarted(f"the worker did not start:\n{self.output[-2000:]}")
            time.sleep(POLL_SECONDS)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def terminate(self) -> None:
        """SIGTERM, without waiting for the end."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self._process.kill()
        self._process.wait()

    def exit_code(self, *, seconds: float = 60.0) -> int:
        """Wait for the end.

        Raises:
            subprocess.TimeoutExpired: it still runs after `seconds`.
        """
        return self._process.wait(seconds)

    def stop(self, *, seconds: float = 60.0) -> int:
        """SIGTERM, and SIGKILL if it still runs after `seconds`; returns the exit code."""
        self.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            return self._process.wait()

    def __enter__(self) -> WorkerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self.alive:
            self.kill()


def log_events(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects in a log that may be written to at this moment.

    A line counts once its newline is there: the last one may be half written, now or for ever if its writer was killed.
    Lines of other programs (Celery's banner, a traceback) are passed over. The file may not exist yet.
    """
    if not path.exists():
        return
    for line in path.read_bytes().split(b"\n")[:-1]:
        if line.startswith(b"{"):
            yield json.loads(line.decode(errors="replace"))
