"""What Prometheus is told. Names, labels and units are listed in docs/operations.md; a test holds the two together."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from worker.in_flight import InFlightJobs

if TYPE_CHECKING:
    from worker.render.loop import RenderLoop

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

    def __init__(self, loop: RenderLoop, held: InFlightJobs) -> None:
        self._loop = loop
        self._held = held

    def collect(self) -> Iterator[Metric]:
        """Prometheus's protocol."""
        stats = self._loop.stats()
        samples = GaugeMetricFamily("render_samples", "Samples in the loop, by state.", labels=["state"])
        samples.add_metric(["waiting"], stats.waiting)
        samples.add_metric(["active"], stats.active)
        yield samples
        yield GaugeMetricFamily("render_jobs_held", "Jobs in this process.", value=len(self._held.ids()))
        yield CounterMetricFamily("render_images", "Pictures decoded.", value=stats.images)
        yield CounterMetricFamily("render_sample_steps", "DDIM steps of samples.", value=stats.sample_steps)
        yield CounterMetricFamily("render_busy_seconds", "Time the GPU thread worked.", value=stats.busy_seconds)
        steps = CounterMetricFamily("render_steps", "Engine calls for a step, by samples in it.", labels=["samples"])
        for samples_in_step, number in sorted(stats.batch_sizes.items()):
            steps.add_metric([str(samples_in_step)], number)
        yield steps
        age = 0.0 if stats.busy_since is None else time.monotonic() - stats.busy_since
        yield GaugeMetricFamily("render_turn_age_seconds", "Since the turn under way began; 0 when idle.", value=age)
