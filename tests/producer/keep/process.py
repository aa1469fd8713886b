"""`producer keep` as a process, and what it answers."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from tests.eventually import eventually
from tests.forked import Template
from tools import ROOT
from tools.worker_process import log_events


class Answer(NamedTuple):
    """A reply of the server."""

    status: int
    text: str
    headers: dict[str, str]


class KeepProcess:
    """Killed at the end, if it still runs."""

    def __init__(self, log: Path, *, environment: Mapping[str, str], arguments: tuple[str, ...] = ()) -> None:
        self.log = log
        with log.open("ab") as output, Path(os.devnull).open("rb") as nothing:
            self._process = Template.running("programs").fork(
                "producer",
                ["keep", "--port", "0", *arguments],
                {**os.environ, "RENDER_RECONCILE_SECONDS": "0.2", **environment},
                folder=ROOT,
                streams=(nothing.fileno(), output.fileno(), output.fileno()),
            )
        eventually(lambda: self.events("keep_started") or self._process.poll() is not None)
        assert self._process.poll() is None, log.read_text()
        self.port = int(self.events("keep_started")[0]["port"])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def events(self, name: str) -> list[dict[str, Any]]:
        return [event for event in log_events(self.log) if event["event"] == name]

    def get(self, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            reply = connection.getresponse()
            names = {name.lower(): value for name, value in reply.getheaders()}
            return Answer(reply.status, reply.read().decode("utf-8", "replace"), names)
        finally:
            connection.close()

    def metrics(self) -> dict[str, float]:
        lines = [line for line in self.get("/metrics").text.splitlines() if not line.startswith("#")]
        return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}

    def until_ready(self) -> KeepProcess:
        eventually(lambda: self.get("/readyz").status == 200, what="ready")
        return self

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, and wait for the end."""
        self._process.send_signal(number)
        return self._process.wait(60)

    def __enter__(self) -> KeepProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
