"""Flower, as people run it: in an environment of its own, with nothing of this project but the URL of Redis.

It is installed once into build/deploy-tools, which needs the package index.
"""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest

from tests.deploy.tools import PIP_OPTIONS, TOOLS, download
from tests.eventually import eventually
from tests.integration.conftest import Site, site, start_site
from tests.jobs.rows import enqueue
from tools.embedded_redis import free_port

__all__ = ["site", "start_site"]  # fixtures

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1500)]  # installing may take 600 s, twice

FOLDER = TOOLS / "flower"
PACKAGES = ("flower>=2.0.1,<3", "celery[redis]")
INSTALL_SECONDS = 600
# Each inspection waits so long for its answer; by default a second, which a busy machine exceeds.
INSPECT_SECONDS = 5
ASKED = {"stats", "active_queues", "registered", "conf", "active"}


@pytest.fixture(scope="module")
def flower() -> Path:
    """The `celery` of an environment that has Flower."""
    celery = FOLDER / "bin" / "celery"
    if not (FOLDER / "installed").exists():
        venv.create(FOLDER, with_pip=True, clear=True)
        what = f"Flower cannot be installed (pip install {' '.join(PACKAGES)})"
        pip = FOLDER / "bin" / "python", "-m", "pip", "install", *PIP_OPTIONS
        download(*pip, *PACKAGES, what=what, seconds=INSTALL_SECONDS)
        (FOLDER / "installed").touch()
    return celery


class Flower:
    """A running Flower, and its API."""

    def __init__(self, log: Path, port: int) -> None:
        self.log = log
        self.port = port

    def get(self, path: str) -> Any:
        return self._answer(Request(f"http://127.0.0.1:{self.port}{path}"))

    def post(self, path: str) -> str:
        """What it says, whatever the status."""
        request = Request(f"http://127.0.0.1:{self.port}{path}", method="POST", data=b"")
        try:
            return json.dumps(self._answer(request))
        except URLError as error:
            return str(error) + getattr(error, "read", bytes)().decode()

    @property
    def answers(self) -> bool:
        try:
            return bool(self.get("/api/workers?refresh=0") is not None)
        except (OSError, ValueError):
            return False

    def _answer(self, request: Request) -> Any:
        with urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())


@contextmanager
def running(celery: Path, redis_url: str, folder: Path) -> Iterator[Flower]:
    """Flower on a free port, without a login, which only a test may leave out."""
    log, port = folder / "flower.log", free_port()
    command = [str(celery), f"--broker={redis_url}", "flower", "--address=127.0.0.1", f"--port={port}",
               f"--inspect_timeout={INSPECT_SECONDS * 1000}"]  # fmt: skip
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["FLOWER_UNAUTHENTICATED_API"] = "true"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        found = Flower(log, port)
        eventually(lambda: found.answers or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield found
    finally:
        process.terminate()
        process.wait(30)


def test_flower_shows_the_workers_and_their_jobs_and_can_do_nothing_to_them(
    flower: Path, site: Site, tmp_path: Path
) -> None:
    with running(flower, site.redis_url, tmp_path) as page:
        worker = site.start(celery_events="true", jobs_in_flight=2, grace_seconds=0)
        jobs = [site.job(1, prompt="hunter2, takes 0 s"), site.job(2, prompt="hunter2, takes 600 s")]
        # Flower listens by the time a beat has arrived; events from before are lost.
        eventually(lambda: page.get("/api/workers?status=1"), what="Flower sees a worker")
        enqueue(site.ledger, jobs)
        states = dict(zip((job.id for job in jobs), ("SUCCESS", "STARTED"), strict=True))
        eventually(lambda: {id_: task["state"] for id_, task in page.get("/api/tasks").items()} == states)
        (node,) = page.get("/api/workers?status=1")
        seen = inspected(page, node)
        assert [queue["name"] for queue in seen["active_queues"]] == ["render"]
        assert (seen["registered"], seen["stats"]["pid"]) == (["render"], worker.pid)
        assert seen["conf"]["task_default_queue"] == "render"
        assert [task["id"] for task in seen["active"]] == [jobs[1].id]
        # Alive for Flower: its last beat, of which five come a second, is at most 0.4 s old.
        eventually(lambda: page.get("/api/workers?status=1") == {node: True}, what="Flower sees that the worker lives")
        assert shown(page, jobs[1].id)["kwargs"] == repr({"batch": "b", "row": 2})
        for path in (
            f"/api/worker/shutdown/{node}",
            f"/api/worker/pool/shrink/{node}",
            f"/api/task/revoke/{jobs[1].id}",
        ):
            page.post(f"{path}?terminate=true")
        eventually(lambda: len(worker.events("remote_command_refused")) >= 2)
        text = json.dumps([page.get("/api/tasks"), page.get("/api/workers")])
        assert "hunter2" not in text + page.log.read_text()
        assert worker.alive
        assert site.ledger.counts("b").running == 1
        worker.terminate()
        assert worker.exit_code() == 0
        eventually(lambda: page.get("/api/workers?status=1") == {node: False})
    assert (site.held, site.ledger.queue_length()) == (0, 1)


def inspected(page: Flower, node: str) -> dict[str, Any]:
    """What a worker says of itself. Flower asks eight questions, and leaves out the answers that come too late."""
    seen: dict[str, Any] = {}

    def answered() -> bool:
        with suppress(HTTPError):  # 404: no answer at all
            seen.update(page.get(f"/api/workers?refresh=1&workername={node}")[node])
        return set(seen) >= ASKED

    eventually(answered, seconds=120, what="the worker answers Flower")
    return seen


def shown(page: Flower, id_: str) -> dict[str, Any]:
    """A task of Flower's list."""
    return dict(page.get("/api/tasks")[id_])
