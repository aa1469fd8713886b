"""A real Prometheus for tests, which scrapes every two seconds, and the program that checks its files."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.error import URLError
from urllib.parse import quote
from urllib.request import urlopen

import yaml

from tests.deploy.tools import debian, run
from tests.eventually import eventually
from tools import ROOT
from tools.embedded_redis import free_port

FOLDER = ROOT / "deploy" / "monitoring"


def program(name: str) -> str:
    """`prometheus` or `promtool`."""
    return debian(name, package="prometheus")


def promtool(*arguments: str | Path, text: str | None = None) -> str:
    """What promtool said.

    Raises:
        AssertionError: it found something wrong.
    """
    return run(program("promtool"), *arguments, text=text)


class Prometheus:
    """A server with our own configuration, but for the addresses of what it scrapes and how often."""

    def __init__(self, folder: Path, targets: Mapping[str, list[str]]) -> None:
        """`targets`: addresses by job; jobs of the configuration that are not named are left out."""
        self._folder = folder
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        config = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
        # One scrape that exceeds the timeout, which cannot be longer than the interval, makes all of a target's series
        # stale until the next one: whoever asks for a series must ask again.
        config["global"] = {"scrape_interval": "2s", "scrape_timeout": "2s", "evaluation_interval": "1s"}
        jobs = {scrape["job_name"] for scrape in config["scrape_configs"]}
        assert set(targets) <= jobs, f"prometheus.yml has {sorted(jobs)}"
        config["scrape_configs"] = [
            {"job_name": job, "static_configs": [{"targets": addresses}]} for job, addresses in targets.items()
        ]
        shutil.copy(FOLDER / "rules.yaml", folder)
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))

    def __enter__(self) -> Prometheus:
        command = [
            program("prometheus"), f"--config.file={self._folder}/prometheus.yml",
            f"--storage.tsdb.path={self._folder}/data", f"--web.listen-address=127.0.0.1:{self._port}",
        ]  # fmt: skip
        with (self._folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        eventually(self._is_ready, seconds=60, what="Prometheus is ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def api(self, path: str) -> Any:
        """The data of an answer of /api/v1."""
        with urlopen(f"http://127.0.0.1:{self._port}/api/v1/{path}", timeout=10) as reply:
            return json.loads(reply.read())["data"]

    def query(self, text: str) -> list[dict[str, Any]]:
        """The series that a query gives now."""
        result: list[dict[str, Any]] = self.api(f"query?query={quote(text)}")["result"]
        return result

    def number(self, text: str) -> float | None:
        """The one value that a query gives now, or None."""
        found = self.query(text)
        assert len(found) <= 1, f"{text}: {found}"
        return float(found[0]["value"][1]) if found else None

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as reply:
                return bool(reply.status == 200)
        except (URLError, OSError):
            return False
