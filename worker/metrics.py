"""What Prometheus is told. Names, labels and units are listed in docs/operations.md; a test holds the two together."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from worker.held import HeldJobs

STAGE_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class JobMetrics:
    """Counted by the jobs' threads. Each service has a registry of its own."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Counter(
            "render_jobs", "Jobs that left this worker, by how and by the error's kind.", ["state", "kind"],
            registry=registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "render_stage_seconds", "Time a job spent in a stage.", ["stage"], buckets=STAGE_SECONDS, registry=registry
        )
        self.ledger_retries = Counter(
            "render_ledger_retries", "Moves in the ledger tried again because Redis did not answer.", registry=registry
        )
        self.heartbeat_failures = Counter(
            "render_heartbeat_failures", "Signs of life that did not reach the ledger.", registry=registry
        )


class LoopCollector:
    """Read from the loop at each scrape: nothing in the GPU thread waits for a metric."""

    def __init__(self, loop: Any, held: HeldJobs) -> None:
        self._loop = loop
        self._held = held

    def collect(self) -> Iterator[Metric]:
        """Prometheus's protocol."""
        yield GaugeMetricFamily("render_jobs_held", "Jobs in this process.", value=len(self._held.ids()))
