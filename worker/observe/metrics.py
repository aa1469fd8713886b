"""Metrics for Prometheus. docs/operations.md lists their names, labels and units; a test compares the two."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from jobs.errors import Cancelled, PermanentError, RenderError, SourceUnavailable
from worker.in_flight import InFlightJobs
from worker.render.stats import STEP_BOUNDS, Captures, Cause, StepSeconds

if TYPE_CHECKING:
    from worker.fitness import Fitness
    from worker.render.loop import RenderLoop
    from worker.renderer import Renderer

STAGE_SECONDS = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


# Errors of jobs that fail, and of jobs that a worker gives to others. Prometheus does not see the increase of a counter
# that first appears with a value, so it would miss the first failures: each counter exists from the start.
FAILURES: tuple[type[RenderError], ...] = (*PermanentError.__subclasses__(), SourceUnavailable)
FAILURE_KINDS = (*(error.kind for error in FAILURES), "unexpected")
REFUSAL_KINDS = (*(error.kind for error in FAILURES if error.fault != "job"), "unexpected")


class JobMetrics:
    """Counted by the threads of jobs. Each service has its own registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.jobs = Counter(
            "render_jobs", "Jobs that left this worker, by how and by the error's kind.", ["state", "kind"],
            registry=registry,
        )  # fmt: skip
        self.stage_seconds = Histogram(
            "render_stage_seconds", "Time a job spent in a stage.", ["stage"], buckets=STAGE_SECONDS, registry=registry
        )
        self.ledger_retries = Counter(
            "render_ledger_retries", "Ledger calls repeated because Redis did not answer.", registry=registry
        )
        self.heartbeat_failures = Counter(
            "render_heartbeat_failures", "Heartbeats that did not reach the ledger.", registry=registry
        )
        self.refusals = Counter(
            "render_refusals", "Jobs that this worker gave to others, by the error's kind.", ["kind"], registry=registry
        )
        self.storage_waits = Gauge(
            "render_storage_waits", "Jobs in this process that wait for storage to answer.", registry=registry
        )
        self.image_bytes = Counter(
            "render_image_bytes", "Bytes of pictures: in, as fetched; out, as stored.", ["direction"], registry=registry
        )
        self._begin_at_zero()

    def _begin_at_zero(self) -> None:
        for state, kind in (("done", ""), ("cancelled", Cancelled.kind), *(("failed", kind) for kind in FAILURE_KINDS)):
            self.jobs.labels(state=state, kind=kind)
        for kind in REFUSAL_KINDS:
            self.refusals.labels(kind=kind)
        for direction in ("in", "out"):
            self.image_bytes.labels(direction=direction)


@dataclass
class StageTimer:
    """How long one job spent in each stage."""

    metrics: JobMetrics
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def measure(self, stage: str) -> Iterator[None]:
        """Around a stage. A stage that raises is not counted."""
        began = time.monotonic()
        yield
        self.seconds[stage] = round(time.monotonic() - began, 4)
        self.metrics.stage_seconds.labels(stage=stage).observe(self.seconds[stage])


class LoopCollector:
    """Reads the loop at each scrape, so that nothing in the GPU thread waits for a metric."""

    def __init__(self, loop: RenderLoop, in_flight: InFlightJobs) -> None:
        self._loop = loop
        self._in_flight = in_flight

    def collect(self) -> Iterator[Metric]:
        """Prometheus calls this at each scrape."""
        stats = self._loop.stats()
        samples = GaugeMetricFamily("render_samples", "Samples in the loop, by state.", labels=["state"])
        samples.add_metric(["waiting"], stats.waiting)
        samples.add_metric(["active"], stats.active)
        yield samples
        yield GaugeMetricFamily("render_jobs_in_flight", "Jobs in this process.", value=len(self._in_flight.ids()))
        yield CounterMetricFamily("render_images", "Pictures decoded.", value=stats.images)
        yield CounterMetricFamily("render_sample_steps", "DDIM steps of samples.", value=stats.sample_steps)
        yield CounterMetricFamily("render_busy_seconds", "Time the GPU thread worked.", value=stats.busy_seconds)
        steps = CounterMetricFamily("render_steps", "Engine calls for a step, by samples in it.", labels=["samples"])
        for samples_in_step, number in sorted(stats.batch_sizes.items()):
            steps.add_metric([str(samples_in_step)], number)
        yield steps
        yield CounterMetricFamily(
            "render_padded_sample_steps", "Samples times steps that only fill batches.", value=stats.padded_sample_steps
        )
        yield from _captures(stats.captures)
        yield _step_histogram(stats.step_seconds)
        age = 0.0 if stats.busy_since is None else time.monotonic() - stats.busy_since
        yield GaugeMetricFamily("render_turn_age_seconds", "Since the current turn began; 0 when idle.", value=age)


def _captures(captures: Mapping[Cause, Captures]) -> Iterator[Metric]:
    number = CounterMetricFamily(
        "render_graph_captures", "Batch sizes that the device was prepared for.", labels=["cause"]
    )
    seconds = CounterMetricFamily("render_graph_capture_seconds", "Time that this took.", labels=["cause"])
    for cause, one in captures.items():
        number.add_metric([cause], one.number)
        seconds.add_metric([cause], one.seconds)
    yield number
    yield seconds


def _step_histogram(seconds: StepSeconds) -> Metric:
    bounds = (*map(str, STEP_BOUNDS), "+Inf")
    return HistogramMetricFamily(
        "render_step_seconds",
        "Time that the GPU thread waited for one engine call for a step.",
        buckets=list(zip(bounds, accumulate(seconds.counts), strict=True)),
        sum_value=seconds.total,
    )


class EngineCollector:
    """What was loaded, and how long that took."""

    LABELS = ("engine_set", "backend", "runtime", "precision", "architecture", "model")

    def __init__(self, renderer: Renderer, *, load_seconds: float) -> None:
        self._load_seconds = load_seconds
        sets = {one.digest: one for one in renderer.sets.values()}  # two names may lead to the same one
        self._labels = [self._labels_of(one) for one in sets.values()]

    def collect(self) -> Iterator[Metric]:
        """Prometheus calls this at each scrape."""
        yield GaugeMetricFamily(
            "render_engine_load_seconds", "Time from the start of loading until the engines were ready.",
            value=self._load_seconds,
        )  # fmt: skip
        info = GaugeMetricFamily("render_engine_info", "1; the labels say which engine set runs.", labels=self.LABELS)
        for labels in self._labels:
            info.add_metric(labels, 1.0)
        yield info

    def _labels_of(self, renderer: Renderer) -> list[str]:
        labels = {"engine_set": renderer.digest, "model": renderer.model_name or "", **renderer.built}
        return [labels.get(name, "") for name in self.LABELS]


class FitnessCollector:
    """Says at each scrape whether the worker is paused, and why."""

    def __init__(self, fitness: Fitness) -> None:
        self._fitness = fitness

    def collect(self) -> Iterator[Metric]:
        """Prometheus calls this at each scrape."""
        paused = GaugeMetricFamily("render_paused", "1 while the worker takes no jobs, by cause.", labels=["cause"])
        causes = self._fitness.causes
        for cause in self._fitness.CAUSES:
            paused.add_metric([cause], float(cause in causes))
        yield paused
