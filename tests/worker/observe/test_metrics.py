"""What /metrics says: of steps, engines and the device's memory, and what exists before anything happens."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
import torch
from prometheus_client import CollectorRegistry
from prometheus_client.core import Sample

from jobs.errors import PermanentError
from tests.worker.loops import Device, run
from tests.worker.render.graph_device import CAPTURE, GraphDevice
from tests.worker.samples import sample_spec
from worker.in_flight import InFlightJobs
from worker.observe.device_memory import DeviceMemoryCollector
from worker.observe.metrics import EngineCollector, JobMetrics, LoopCollector
from worker.observe.set_metrics import SetCollector
from worker.render.denoisers import Denoisers
from worker.render.device import memory_of
from worker.render.loop import RenderLoop
from worker.render.request import BucketKey
from worker.render.stats import STEP_BOUNDS, LoopCounters
from worker.renderer import Renderer


def samples(*collectors: Any) -> list[Sample]:
    registry = CollectorRegistry()
    for collector in collectors:
        registry.register(collector)
    return [sample for metric in registry.collect() for sample in metric.samples]


def values(name: str, *collectors: Any) -> dict[tuple[str, ...], float]:
    return {tuple(one.labels.values()): one.value for one in samples(*collectors) if one.name == name}


# -- steps ------------------------------------------------------------------------------------------------------------


def test_every_engine_call_for_a_step_is_in_the_histogram_once() -> None:
    loop = RenderLoop(Device(max_batch=2))
    for number, steps in enumerate([1, 2, 2]):
        loop.submit(sample_spec(number, steps=steps))
    run(loop)
    collector = LoopCollector(loop, InFlightJobs())
    assert values("render_step_seconds_count", collector)[()] == loop.stats().steps == 3
    assert values("render_step_seconds_bucket", collector)[("+Inf",)] == 3
    assert values("render_step_seconds_sum", collector)[()] > 0


def test_a_step_that_failed_is_not_counted() -> None:
    loop = RenderLoop(Device(trouble=lambda called, _: ValueError("no") if called == "step" else None))
    future = loop.submit(sample_spec(1, steps=3))
    run(loop)
    assert future.exception() is not None
    assert values("render_step_seconds_count", LoopCollector(loop, InFlightJobs()))[()] == 0


def test_buckets_are_cumulative_and_a_bound_belongs_to_its_own() -> None:
    counters = LoopCounters()
    for seconds in (0.0, STEP_BOUNDS[0], STEP_BOUNDS[1], 10_000.0):
        counters.count_step(1, seconds)
    loop = RenderLoop(Device())
    loop._counters = counters
    buckets = list(values("render_step_seconds_bucket", LoopCollector(loop, InFlightJobs())).values())
    assert len(buckets) == len(STEP_BOUNDS) + 1
    assert (buckets[0], buckets[1], buckets[-2], buckets[-1]) == (2, 3, 3, 4)
    assert tuple(sorted(STEP_BOUNDS)) == STEP_BOUNDS


def test_counting_a_step_waits_for_no_other_thread() -> None:
    """A scrape, or a thread that counts pictures, may be interrupted while it holds the lock."""
    counters = LoopCounters()
    with counters._lock, ThreadPoolExecutor(1) as thread:
        thread.submit(counters.count_step, 1, 0.006).result(30)
        assert counters.snapshot(waiting=0, active=0).steps == 1


# -- engines ----------------------------------------------------------------------------------------------------------


def renderer(**fields: Any) -> Renderer:
    loop: Any = None
    return Renderer(loop, loop, loop, **{"digest": "abc", **fields})


def test_the_engine_set_and_the_time_it_took_to_load_are_told() -> None:
    built = {"backend": "onnxruntime", "runtime": "onnxruntime 1.23.0", "precision": "fp32", "architecture": "any"}
    collector = EngineCollector(renderer(built=built, model_name="v1-5"), load_seconds=2.5)
    assert values("render_engine_load_seconds", collector) == {(): 2.5}
    (info,) = [sample for sample in samples(collector) if sample.name == "render_engine_info"]
    assert (info.labels, info.value) == ({"engine_set": "abc", "model": "v1-5", **built}, 1.0)


def test_what_is_not_known_of_an_engine_set_is_an_empty_label() -> None:
    (labels,) = values("render_engine_info", EngineCollector(renderer(), load_seconds=0.0))
    assert labels == ("abc", "", "", "", "", "")


def test_each_set_that_is_held_is_told_with_what_it_drew() -> None:
    loop: Any = RenderLoop(Denoisers({name: Device() for name in ("abc", "def")}))
    one = Renderer(loop, loop, loop, digest="abc", name="ink")
    sets = {"ink": one, "anime": replace(one, digest="def"), "also-ink": one}
    held = replace(one, others=sets)
    for number, engine_set in enumerate(("abc", "abc", "def")):
        loop.submit(sample_spec(number, engine_set=engine_set, steps=2))
    waiting = values("render_set_samples", SetCollector(held))
    assert (waiting["also-ink,ink", "abc", "waiting"], waiting["anime", "def", "waiting"]) == (2, 1)
    run(loop)
    told = SetCollector(held)
    assert values("render_set_images_total", told) == {("also-ink,ink", "abc"): 2, ("anime", "def"): 1}
    assert values("render_set_sample_steps_total", told) == {("also-ink,ink", "abc"): 4, ("anime", "def"): 2}
    assert set(values("render_set_loads_total", told).values()) == {1}
    assert set(values("render_set_resident", told).values()) == {1}
    assert len(values("render_engine_info", EngineCollector(held, load_seconds=0.0))) == 2


def test_captures_and_padding_are_told_from_the_start() -> None:
    device = GraphDevice()
    loop = device.loop()
    told = LoopCollector(loop, InFlightJobs())
    assert values("render_graph_captures_total", told) == {("step",): 0, ("idle",): 0}
    loop.warm_up([(BucketKey("", 64, 64, 77), 4)])
    loop.warm()
    loop.submit(sample_spec(1, steps=3))
    loop.submit(sample_spec(2, steps=3, size=(64, 128)))
    run(loop)
    assert values("render_graph_captures_total", told) == {("step",): 1, ("idle",): 1}
    assert values("render_graph_capture_seconds_total", told)["idle",] == pytest.approx(CAPTURE)
    # Three steps of one sample in the graph of four, and of the other in one of two: its share and half as much again.
    assert values("render_padded_sample_steps_total", told) == {(): 3 * 3 + 3 * 1}


# -- memory -----------------------------------------------------------------------------------------------------------


def test_a_cpus_memory_is_the_machines_and_the_processs() -> None:
    memory = values("render_device_memory_bytes", DeviceMemoryCollector(lambda: memory_of(torch.device("cpu"))))
    assert set(memory) == {("used",), ("total",), ("allocated",)}
    assert 0 < memory["used",] < memory["total",]
    assert 0 < memory["allocated",] < memory["total",]


def test_a_device_that_raises_costs_no_other_metric() -> None:
    def lost() -> dict[str, int]:
        raise RuntimeError("CUDA error: unspecified launch failure")

    assert values("render_device_memory_bytes", DeviceMemoryCollector(lost)) == {}


@pytest.fixture
def device_back() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_device_that_does_not_answer_holds_up_no_scrape_and_is_asked_once(device_back: threading.Event) -> None:
    asked = []

    def silent() -> dict[str, int]:
        asked.append(1)
        device_back.wait(60)
        return {"used": 1}

    collector = DeviceMemoryCollector(silent, answer_seconds=0.01)
    assert [values("render_device_memory_bytes", collector) for _ in range(3)] == [{}, {}, {}]
    assert len(asked) == 1
    device_back.set()
    collector = DeviceMemoryCollector(silent, answer_seconds=60)
    assert values("render_device_memory_bytes", collector) == {("used",): 1}


# -- what exists from the start ---------------------------------------------------------------------------------------


def test_counters_of_failures_exist_before_the_first_failure() -> None:
    """Prometheus cannot see the increase of a counter that first appears with a value."""
    registry = CollectorRegistry()
    JobMetrics(registry)
    there = {
        tuple(sorted(sample.labels.items())): sample.value
        for metric in registry.collect()
        for sample in metric.samples
        if sample.name == "render_jobs_total"
    }
    kinds = {dict(labels)["kind"] for labels in there if dict(labels)["state"] == "failed"}
    assert {error.kind for error in PermanentError.__subclasses__()} <= kinds
    assert {"source_unavailable", "unexpected"} <= kinds
    assert set(there.values()) == {0.0}
