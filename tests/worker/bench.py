"""A JobRunner on a real ledger, with storage in memory and a stub in place of engines."""

from __future__ import annotations

import threading
from typing import Any, cast

from prometheus_client import CollectorRegistry

from jobs.job import RenderJob, RenderResult
from jobs.ledger.ledger import Ledger
from jobs.settings import load_settings
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.http import FetchLimits
from jobs.storage.memory import MemoryStore
from tests.jobs.rows import enqueue, make_job
from tests.worker.stub_renderer import StubLoop, stub_renderer
from worker.in_flight import InFlightJobs
from worker.job_runner import JobRunner
from worker.ledger_client import LedgerClient
from worker.observe.metrics import JobMetrics
from worker.outcome import Outcome
from worker.shutdown import Shutdown

WORKER = "w-1-abc"


class Bench:
    """A JobRunner with everything around it in reach."""

    def __init__(self, ledger: Ledger) -> None:
        settings = load_settings(retry_attempts=2, retry_base_seconds=0.0, max_attempts=2)
        ledger = Ledger(ledger.client, max_attempts=settings.max_attempts)  # as Ledger.connect does
        self.ledger = ledger
        self.storage = MemoryStore()
        self.picture: bytes | Exception = b"picture"
        self.pictures: dict[str, bytes | Exception] = {}  # those that are not `picture`, by URI
        self.fetched = 0
        self.registry = CollectorRegistry()
        self.stop = threading.Event()
        shutdown, metrics = Shutdown(), JobMetrics(self.registry)
        renderer = stub_renderer(shutdown)
        self.loop = cast(StubLoop, renderer.loop)
        self.runner = JobRunner(
            settings=settings,
            renderer=renderer,
            ledger=LedgerClient(ledger, worker=WORKER, shutdown=shutdown, metrics=metrics),
            in_flight=InFlightJobs(),
            shutdown=shutdown,
            metrics=metrics,
            read=self._read,
            open_store=lambda _: self.storage,
            access_policy=AccessPolicy(output="file:///out"),
        )

    def _read(self, uri: str, limits: FetchLimits) -> bytes:
        self.fetched += 1
        picture = self.pictures.get(uri, self.picture)
        if isinstance(picture, Exception):
            raise picture
        return picture

    def run(self, job: RenderJob) -> Outcome:
        return self.runner.run(job.model_dump_json())

    def result(self, job: RenderJob) -> RenderResult:
        (result,) = [result for result in self.ledger.results(job.batch) if result.id == job.id]
        return result

    def state(self, job: RenderJob) -> tuple[str, int]:
        line = self.ledger.state(job.batch, job.id)
        assert line is not None
        return line.state, line.attempts


def queued(bench: Bench, **parameters: Any) -> RenderJob:
    job = make_job(**parameters)
    enqueue(bench.ledger, [job])
    return job
