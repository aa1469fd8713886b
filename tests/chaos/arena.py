"""The system that chaos breaks: a real Redis, real workers behind a proxy, real commands, storage for results."""

from __future__ import annotations

import csv
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import redis
from PIL import Image, ImageDraw

from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from jobs.settings import load_settings
from producer.submission import Outcome, Request
from producer.submit import jobs_of
from producer.table.check import check
from tests import forked
from tests.chaos.storage import BATCH, BucketStorage, FolderStorage, Storage
from tests.forked import ForkedProcess
from tests.tcp_proxy import TcpProxy
from tests.worker_process import ForkedTorchWorker, WorkerProcess, log_events
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis

PICTURES = 8
VISIBILITY_SECONDS = 5  # the smallest that the settings allow
APP = "tests.chaos.app"
MISSING_EVERY = 100  # one row in so many names a picture that does not exist


Where = Literal["folder", "bucket"]


@dataclass(frozen=True)
class Plan:
    """The size of the batch, the number of faults, the seed that both follow from, and where results go."""

    jobs: int = 2000
    workers: int = 4
    faults: int = 30
    seed: int = 0
    step_ms: int = 40
    sample_ms: int = 2
    storage: Where = "folder"
    away_seconds: float = 60.0  # for which a bucket cannot be reached
    only: tuple[str, ...] = ()  # the kinds of faults; none: all
    forked: bool = False  # processes are forked from a template, which is quicker, and not started with their imports


class Arena:
    """A context manager: at its end, everything that it started is stopped."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self.plan = plan
        self.folder = folder
        self.inputs = folder / "in"
        self.storage: Storage = FolderStorage(folder) if plan.storage == "folder" else BucketStorage()
        self.server = EmbeddedRedis(folder / "redis")
        self.workers: list[WorkerProcess] = []  # those that render the batch
        self.started: list[WorkerProcess] = []
        self.logs: list[Path] = []
        self.unexpected: list[str] = []

    def __enter__(self) -> Arena:
        self.inputs.mkdir()
        self._write_inputs(random.Random(f"inputs {self.plan.seed}"))
        self.storage.__enter__()
        self.server.start()
        self.proxy = TcpProxy(("127.0.0.1", self.server.port)).__enter__()
        self.client = redis.Redis.from_url(self.server.url, decode_responses=True, encoding_errors="replace")
        self.ledger = Ledger(self.client)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for worker in self.started:
            if worker.alive:
                worker.kill()
        self.client.close()
        self.proxy.__exit__(None, None, None)
        self.server.stop()
        self.storage.__exit__(None, None, None)

    # -- inputs ---------------------------------------------------------------------------------------------------

    @property
    def csv(self) -> Path:
        """The batch's rows, in a file named after it."""
        return self.inputs / f"{BATCH}.csv"

    def jobs(self) -> Iterator[RenderJob]:
        """The jobs of the CSV as the producer makes them."""
        request = Request.resolve(load_settings(), file=self.csv, batch=BATCH, output=self.storage.output)
        return jobs_of(check(request, Outcome()), request)

    def _write_inputs(self, rng: random.Random) -> None:
        for number in range(PICTURES):
            image = Image.new("RGB", (96, 64 if number % 2 else 96), "navy")
            draw = ImageDraw.Draw(image)
            for _ in range(6):
                x, y = rng.randrange(80), rng.randrange(50)
                draw.rectangle((x, y, x + rng.randrange(5, 40), y + rng.randrange(5, 40)), fill=rng.randrange(2**24))
            image.save(self.inputs / f"{number}.png")
        with self.csv.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["image", "prompt", "num_samples", "image_resolution", "ddim_steps", "eta", "guess_mode"])
            for row in range(1, self.plan.jobs + 1):
                picture = "missing" if row % MISSING_EVERY == 0 else rng.randrange(PICTURES)
                samples, steps = 1 + (rng.random() < 0.25), rng.randrange(3, 9)
                rows.writerow(
                    [f"{picture}.png", f"thing {row}", samples, 64, steps, rng.choice((0, 0.5)), row % 7 == 0]
                )

    # -- processes ------------------------------------------------------------------------------------------------

    def start_worker(self, **settings: Any) -> WorkerProcess:
        """Start one more worker, connected through the proxy; `settings` override."""
        worker = self.start_stranger(**settings)
        self.workers.append(worker)
        return worker

    def start_stranger(
        self, *, arguments: Sequence[str] = (), variables: dict[str, str] | None = None, **settings: Any
    ) -> WorkerProcess:
        """Start a worker that is not one of those that render the batch: whoever calls this also ends it."""
        values = {
            "redis_url": f"redis://127.0.0.1:{self.proxy.port}/0",
            "allow_folders": self.inputs,
            "output_uri": self.storage.output,
            "engine_dir": f"fake:step_ms={self.plan.step_ms},sample_ms={self.plan.sample_ms}",
            "jobs_in_flight": 8,
            "visibility_timeout_seconds": VISIBILITY_SECONDS,
            "heartbeat_seconds": 0.5,
            "lease_seconds": 3,
            "grace_seconds": 3,
            "max_attempts": 12,  # thirty faults may interrupt one job, and it is not to be quarantined for them
            "retry_base_seconds": 0.1,
        } | settings
        environment = {f"RENDER_{name.upper()}": str(value) for name, value in values.items()}
        environment |= {"OMP_NUM_THREADS": "1"} | self.storage.environment | (variables or {})
        log = self.folder / f"worker-{len(self.logs)}.log"
        self.logs.append(log)
        kind = ForkedTorchWorker if self.plan.forked else WorkerProcess
        worker = kind(APP, environment=environment, log=log, arguments=arguments)
        self.started.append(worker)
        return worker

    def retire(self, worker: WorkerProcess) -> None:
        """Start another worker in place of a dead one, as a supervisor would."""
        self.workers.remove(worker)
        self.start_worker()

    def wait_until_loaded(self) -> None:
        """Wait until all workers handle signals; one that is still importing would end in Python's own way."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not all(worker.events("worker_started") for worker in self.workers):
            time.sleep(0.2)

    def replace_the_dead(self) -> None:
        """Replace workers that ended although nothing was done to them, and note them as unexpected."""
        for worker in [worker for worker in self.workers if not worker.alive]:
            self.unexpected.append(f"a worker ended by itself with {worker.exit_code()}: {worker.log}")
            self.retire(worker)

    def producer(self, *arguments: str, **settings: Any) -> subprocess.Popen[str] | ForkedProcess:
        """Start a command on a direct connection, with stderr in `producer.log`; `settings` override."""
        values = {
            "redis_url": self.server.url,
            "output_uri": self.storage.output,
            "heartbeat_seconds": 0.5,
            "lease_seconds": 3,
            "reconcile_seconds": 1,
        } | settings
        variables = self.storage.environment | {f"RENDER_{name.upper()}": str(value) for name, value in values.items()}
        with (self.folder / "producer.log").open("a") as log:
            if self.plan.forked:
                return forked.start("producer", *arguments, environment=variables, stderr=log.fileno())
            return subprocess.Popen(
                [sys.executable, "-m", "producer", *arguments],
                cwd=ROOT,
                env=os.environ | variables,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )

    def counts(self) -> Counts:
        """The batch's counts; waits while Redis is away."""
        deadline = time.monotonic() + 60
        while True:
            try:
                return self.ledger.counts(BATCH)
            except Exception:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)

    def events(self) -> Iterator[dict[str, Any]]:
        """All events in all workers' logs, one worker after the other."""
        for log in self.logs:
            yield from log_events(log)
