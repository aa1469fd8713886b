"""Metrics of each engine set that a worker holds: what it drew, what waits for it, and how often it was loaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from worker.renderer import Renderer

LABELS = ("set", "engine_set")


class SetCollector:
    """Reads the loop at each scrape. `set` is the name that rows call it by, `engine_set` its digest."""

    def __init__(self, renderer: Renderer) -> None:
        self._loop = renderer.loop
        names: dict[str, list[str]] = {}
        for name, one in sorted(renderer.sets.items()):
            names.setdefault(one.digest, []).append(name)
        self._names = {digest: ",".join(same) for digest, same in names.items()}

    def collect(self) -> Iterator[Metric]:
        """Prometheus calls this at each scrape."""
        stats, loads, samples = self._loop.stats(), self._loop.loads(), self._loop.samples_by_set()
        yield self._counter("render_set_images", "Pictures decoded.", stats.images_by_set)
        yield self._counter("render_set_sample_steps", "DDIM steps of samples.", stats.sample_steps_by_set)
        yield self._counter("render_set_loads", "How often the set was loaded.", loads.counts)
        yield self._counter("render_set_load_seconds", "Time that loading it took.", loads.seconds)
        resident = GaugeMetricFamily("render_set_resident", "1 while the set is on the device.", labels=LABELS)
        waiting = GaugeMetricFamily("render_set_samples", "Samples of it, by state.", labels=(*LABELS, "state"))
        for digest, name in self._names.items():
            resident.add_metric([name, digest], float(digest in loads.loaded))
            for state, number in zip(("waiting", "active"), samples.get(digest, (0, 0)), strict=True):
                waiting.add_metric([name, digest, state], number)
        yield resident
        yield waiting

    def _counter(self, metric: str, what: str, numbers: dict[str, int] | dict[str, float]) -> Metric:
        family = CounterMetricFamily(metric, what, labels=LABELS)
        for digest, name in self._names.items():
            family.add_metric([name, digest], numbers.get(digest, 0))
        return family
