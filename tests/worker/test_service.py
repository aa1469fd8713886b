"""The order of starting and stopping, and the probes, without Celery."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from jobs.ledger.ledger import Ledger
from jobs.settings import Settings, load_settings
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_job
from tests.worker.stub_renderer import StubLoop, stub_renderer
from worker.observe.exit_codes import ExitCode
from worker.observe.health import Verdict
from worker.outcome import Outcome
from worker.render.errors import DeviceLost
from worker.render.stats import Loads
from worker.renderer import Renderer, RendererRefused
from worker.service import LOAD_SECONDS, STUCK_SECONDS, RenderService
from worker.shutdown import Shutdown


class Started:
    """A started service, its stub, and the exit codes that it ended the process with."""

    def __init__(self, redis_url: str, **more: str) -> None:
        self.codes: list[int] = []
        self.told_to_end = threading.Event()
        settings = load_settings(
            redis_url=redis_url, heartbeat_seconds=0.05, lease_seconds=5, metrics_port=0, allow_folders="/", **more
        )
        self.service = RenderService(settings, load=self._load)
        self.service.start(self._fatal)

    def _load(self, settings: Settings, shutdown: Shutdown) -> Renderer:
        renderer = stub_renderer(shutdown)
        self.loop: StubLoop = renderer.loop  # type: ignore[assignment]
        return renderer

    def _fatal(self, code: int) -> None:
        self.codes.append(code)
        self.told_to_end.set()

    def get(self, path: str) -> tuple[int, str]:
        assert self.service.health is not None
        try:
            with urlopen(f"http://127.0.0.1:{self.service.health.port}{path}", timeout=5) as reply:
                return reply.status, reply.read().decode().strip()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode().strip()


@pytest.fixture
def started(redis_url: str) -> Iterator[Started]:
    started = Started(redis_url)
    yield started
    if started.service.health is not None and not started.service._stop_gpu_thread.is_set():
        started.service.stop()


def test_a_started_service_is_ready_and_in_the_ledger(started: Started, ledger: Ledger) -> None:
    eventually(lambda: started.service.name in ledger.workers())
    assert started.get("/startupz") == (200, "started")
    assert started.get("/readyz") == (200, "alive")


def test_a_worker_that_begins_paused_has_started(redis_url: str, tmp_path: Path) -> None:
    """Kubernetes ends a pod that has not started in time; a new one would not mend the folder."""
    blocked = tmp_path / "output"
    blocked.write_text("a file where the folder should be")
    paused = Started(redis_url, output_uri=str(blocked))
    try:
        assert paused.get("/startupz") == (200, "started")
        assert paused.get("/healthz") == (200, "alive")
        status, why = paused.get("/readyz")
        assert (status, why.partition(":")[0]) == (503, "paused")
    finally:
        paused.service.stop()


def test_a_worker_that_loads_is_alive_and_has_not_started(redis_url: str) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def load(settings: Settings, shutdown: Shutdown) -> Renderer:
        loading.set()
        go_on.wait(30)
        return stub_renderer(shutdown)

    service = RenderService(load_settings(redis_url=redis_url, metrics_port=0), load=load)
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(service.start, lambda _: None)
        try:
            assert loading.wait(30)
            assert (service.started().ok, service.live().ok, service.ready().ok) == (False, True, False)
        finally:
            go_on.set()
            starting.result(30)
        assert service.started().ok
        service.stop()


def test_heartbeats_name_the_jobs_in_flight(started: Started, ledger: Ledger, tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"picture")
    job = make_job(image=picture.as_uri(), prompt="takes 60 s", output=(tmp_path / "out").as_uri())
    enqueue(ledger, [job])
    with ThreadPoolExecutor(1) as threads:
        outcome = threads.submit(started.service.run_job, job.model_dump_json())
        eventually(lambda: (beat := ledger.workers().get(started.service.name)) and beat.in_flight == (job.id,))
        started.service.shutdown.requeue_all()
        assert outcome.result(30) is Outcome.DELAYED


def test_draining_is_alive_and_not_ready(started: Started) -> None:
    started.service.shutdown.drain()
    assert started.get("/healthz") == (200, "alive")
    assert started.get("/startupz") == (200, "started")
    assert started.get("/readyz") == (503, "draining")


def test_a_stopped_service_has_left_the_ledger_its_port_and_its_threads(started: Started, ledger: Ledger) -> None:
    eventually(lambda: started.service.name in ledger.workers())
    started.service.stop()
    assert ledger.workers() == {}
    assert not [thread.name for thread in threading.enumerate() if thread.name in ("gpu", "heartbeat", "health")]


def test_a_lost_device_ends_the_process_and_is_no_longer_alive(started: Started, ledger: Ledger) -> None:
    started.loop.broken = DeviceLost("ECC error")
    assert started.told_to_end.wait(30)
    assert started.codes == [ExitCode.DEVICE_LOST]
    eventually(lambda: ledger.exits()["device_lost"] == 1)
    assert started.get("/healthz") == (503, "device_lost: ECC error")


def test_a_loop_that_breaks_ends_the_process_with_another_code(started: Started, ledger: Ledger) -> None:
    started.loop.broken = ZeroDivisionError("oops")
    assert started.told_to_end.wait(30)
    assert started.codes == [ExitCode.FAILED]
    eventually(lambda: ledger.exits()["failed"] == 1)


def test_a_turn_that_takes_minutes_is_not_alive(started: Started, monkeypatch: pytest.MonkeyPatch) -> None:
    stats = dataclasses.replace(started.loop.stats(), busy_since=1000.0)
    monkeypatch.setattr(started.loop, "stats", lambda: stats)
    monkeypatch.setattr("worker.service.time.monotonic", lambda: 1000.0 + STUCK_SECONDS + 1)
    verdict = started.service.live()
    assert not verdict.ok
    assert f"{STUCK_SECONDS + 1:.0f} s" in verdict.why


def test_a_set_that_loads_for_minutes_is_alive_and_one_that_never_comes_is_not(
    started: Started, monkeypatch: pytest.MonkeyPatch
) -> None:
    stats = dataclasses.replace(started.loop.stats(), busy_since=1000.0)
    monkeypatch.setattr(started.loop, "stats", lambda: stats)
    loads = Loads({}, {}, frozenset(), loading=True)
    monkeypatch.setattr(started.loop, "loads", lambda: loads)
    monkeypatch.setattr("worker.service.time.monotonic", lambda: 1000.0 + STUCK_SECONDS + 1)
    assert started.service.live() == Verdict(True, "loading engines")
    monkeypatch.setattr("worker.service.time.monotonic", lambda: 1000.0 + LOAD_SECONDS + 1)
    assert started.service.live() == Verdict(False, "an engine set has been loading for 3601 s")


def refuse(settings: object, shutdown: object) -> Renderer:
    raise RendererRefused("built for another GPU")


def test_a_refused_engine_set_is_a_system_exit_with_its_code(redis_url: str, ledger: Ledger) -> None:
    service = RenderService(load_settings(redis_url=redis_url), load=refuse)
    with pytest.raises(SystemExit) as caught:
        service.start(lambda _: None)
    assert caught.value.code == ExitCode.ENGINES_REFUSED
    assert ledger.exits() == {"engines_refused": 1, "device_lost": 0, "failed": 0}


def test_a_refused_engine_set_has_its_code_also_while_redis_is_away() -> None:
    service = RenderService(load_settings(redis_url="redis://127.0.0.1:1/0"), load=refuse)
    with pytest.raises(SystemExit) as caught:
        service.start(lambda _: None)
    assert caught.value.code == ExitCode.ENGINES_REFUSED


def test_a_started_service_shows_its_engines_its_memory_and_its_process(started: Started) -> None:
    _, text = started.get("/metrics")
    for line in ('render_engine_info{architecture="",backend="",engine_set="stub"', "render_engine_load_seconds ",
                 "render_step_seconds_count 0.0", 'render_image_bytes_total{direction="in"} 0.0',
                 "process_start_time_seconds ", "process_resident_memory_bytes "):  # fmt: skip
        assert line in text, line


def test_no_two_processes_share_a_name(redis_url: str) -> None:
    settings = load_settings(redis_url=redis_url)
    names = {RenderService(settings).name for _ in range(10)}
    assert len(names) == 10
    assert not any(" " in name for name in names)
