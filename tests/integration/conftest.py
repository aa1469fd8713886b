"""Real workers on a real Redis, with files for inputs and outputs."""

from __future__ import annotations

import io
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import boto3
import pytest
from PIL import Image

from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.reconcile import reconcile
from jobs.storage import s3
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_job
from tests.s3_server import s3_server
from tests.tcp_proxy import TcpProxy
from tests.worker_process import ForkedTorchWorker, ForkedWorker, WorkerProcess

STUB = "tests.integration.stub_app"  # everything real but the engines, and quick to start
OTHER_DISK = "tests.integration.other_disk_app"
REAL = "worker"
FORKED: dict[str, type[ForkedWorker]] = {STUB: ForkedWorker, OTHER_DISK: ForkedWorker, REAL: ForkedTorchWorker}


class Site:
    """A folder with one picture, a ledger, and workers that render into the folder."""

    def __init__(self, folder: Path, redis_url: str, ledger: Ledger) -> None:
        self.folder = folder
        self.redis_url = redis_url
        self.ledger = ledger
        self.picture = folder / "picture.png"
        self.picture.write_bytes(b"picture")
        self.started: list[WorkerProcess] = []
        self.afresh = False  # start each worker as a user would, with all of its imports

    def job(self, row: int, *, seconds: float = 0.0, **parameters: Any) -> RenderJob:
        """A job that takes the stub so many seconds."""
        values = {"image": self.picture.as_uri(), "prompt": f"takes {seconds} s"} | parameters
        return make_job(row, output=(self.folder / "out").as_uri(), **values)

    def enqueue(self, number: int, *, seconds: float = 0.0) -> list[RenderJob]:
        """Rows 1..number, queued."""
        jobs = [self.job(row, seconds=seconds) for row in range(1, number + 1)]
        enqueue(self.ledger, jobs)
        return jobs

    @property
    def until_finished(self) -> str:
        """The prompt of a job whose samples are finished once `finish` was called."""
        return f"until {self.folder / 'finished'}"

    def finish(self) -> None:
        """Let the samples of `until_finished` be finished."""
        (self.folder / "finished").touch()

    def start(self, app: str = STUB, *, arguments: Sequence[str] = (), **settings: Any) -> WorkerProcess:
        """Start a worker with frequent heartbeats; `settings` override, `arguments` are options of `celery worker`."""
        values = {
            "redis_url": self.redis_url,
            "allow_folders": self.folder,
            "jobs_in_flight": 4,
            "heartbeat_seconds": 0.2,
            "lease_seconds": 1.0,
            "retry_base_seconds": 0.01,
            "grace_seconds": 300,  # longer than any wait of a test: a worker that sits it out fails the test
        } | settings
        environment = {f"RENDER_{name.upper()}": str(value) for name, value in values.items()}
        log = self.folder / f"worker-{len(self.started)}.log"
        kind = WorkerProcess if self.afresh else FORKED.get(app, WorkerProcess)
        worker = kind(app, environment=environment, log=log, arguments=arguments)
        self.started.append(worker)
        return worker

    def events(self, name: str) -> list[dict[str, Any]]:
        """The events of one name in all workers' logs."""
        return [event for worker in self.started for event in worker.events(name)]

    def get(self, path: str) -> str:
        """The answer of the one worker that was started with a `metrics_port`."""
        eventually(lambda: self.events("health_listens"))
        (listens,) = self.events("health_listens")
        with urlopen(f"http://127.0.0.1:{listens['port']}{path}", timeout=5) as reply:
            return str(reply.read().decode())

    def wait_until_done(self, number: int, *, seconds: float = 120.0) -> None:
        eventually(lambda: self.ledger.counts("b").done >= number, seconds=seconds, what=f"{number} jobs done")

    def reconcile_until_done(self, number: int, *, seconds: float = 120.0) -> None:
        """Reconcile, as `producer submit --wait` does, until so many jobs are done.

        For tests that kill a worker or Redis. kombu pops a message and records it in two steps; a kill between them
        loses the message, and only a reconciler finds its job.
        """

        def done() -> bool:
            if self.ledger.counts("b").done >= number:
                return True
            reconcile(self.ledger, lease_seconds=1.0, settle_seconds=0.1)
            return False

        eventually(done, seconds=seconds, what=f"{number} jobs done")

    def wait_until_in_the_loop(self, number: int) -> None:
        """Wait until the one worker with a `metrics_port` renders so many samples.

        A job that is running for the ledger may still be on its way into the loop. If the worker stops or loses its
        device before it arrives there, the job is requeued, and the attempt does not count.
        """
        active = f'render_samples{{state="active"}} {number}.0'
        eventually(lambda: active in self.get("/metrics"), what=f"{number} samples active")

    @property
    def workers_waiting(self) -> int:
        """How many workers are blocked in BRPOP, which serves them in turn."""
        clients = self.ledger.client.client_list()
        return sum(client["cmd"] == "brpop" and "b" in client["flags"] for client in clients)

    @property
    def held(self) -> int:
        return int(self.ledger.client.hlen("unacked"))

    def assert_all_done_once(self, jobs: list[RenderJob], *, after_a_fault: bool = False) -> None:
        """Every job is done, in the ledger and on the disk, and nothing is left in Redis.

        After a fault between a job's end and its acknowledgement, its message stays until the visibility timeout. The
        worker that gets it then finds the job finished.
        """
        counts = self.ledger.counts("b")
        assert (counts.done, counts.total) == (len(jobs), len(jobs))
        results = list(self.ledger.results("b"))
        assert sorted(result.id for result in results) == sorted(job.id for job in jobs)
        # A kill in mid-write leaves a temporary file, hidden by its name.
        written = {path.name for path in (self.folder / "out" / "b").iterdir() if path.name[0] != "."}
        assert written == {job.id + end for job in jobs for end in (".json", "_0.png", "_canny.png")}
        if not after_a_fault:
            eventually(lambda: self.held == 0, what="all messages acknowledged")
        assert self.ledger.queue_length() == 0


StartSite = Callable[[str, Ledger], Site]


@pytest.fixture
def start_site(tmp_path: Path) -> Iterator[StartSite]:
    """Sites on any Redis; their workers are killed at the end of the test."""
    sites: list[Site] = []

    def start(redis_url: str, ledger: Ledger) -> Site:
        sites.append(Site(tmp_path, redis_url, ledger))
        return sites[-1]

    yield start
    for worker in (worker for site in sites for worker in site.started if worker.alive):
        worker.kill()


@pytest.fixture
def site(start_site: StartSite, redis_url: str, ledger: Ledger) -> Site:
    """A site on the session's Redis, emptied."""
    return start_site(redis_url, ledger)


@pytest.fixture(scope="session")
def s3_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A real S3 server: the AWS_* variables that name it."""
    with s3_server(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def bucket(s3_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A new bucket on that server, for this process and those that it starts."""
    for name, value in s3_environment.items():
        monkeypatch.setenv(name, value)
    s3.forget_client()
    name = f"renders-{uuid.uuid4().hex[:8]}"
    boto3.session.Session().client("s3").create_bucket(Bucket=name)
    yield name
    s3.forget_client()


@pytest.fixture
def picture_png() -> bytes:
    """A small picture with edges."""
    image = Image.new("RGB", (96, 64), "navy")
    image.paste("gold", (20, 15, 60, 45))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def server(bucket: str) -> Any:
    """A client of the real server, without the proxy."""
    return boto3.session.Session().client("s3", endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"])


@pytest.fixture
def proxy(server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[TcpProxy]:
    """A proxy in front of the server, which this process and its workers use."""
    host, _, port = os.environ["AWS_ENDPOINT_URL_S3"].rpartition("/")[2].rpartition(":")
    with TcpProxy((host, int(port))) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", f"http://127.0.0.1:{between.port}")
        s3.forget_client()
        yield between
        s3.forget_client()
