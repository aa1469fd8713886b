from __future__ import annotations

from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from prometheus_client import CollectorRegistry, Counter

from jobs.errors import SettingsError
from worker.observe.health import HealthServer, Probes, Verdict


class Switches:
    """Probes whose verdict a test sets."""

    started = Verdict(False, "loading engines")
    live = Verdict(True, "alive")
    ready = Verdict(False, "loading engines")


@pytest.fixture
def switches() -> Switches:
    return Switches()


@pytest.fixture
def server(switches: Switches) -> Iterator[HealthServer]:
    registry = CollectorRegistry()
    Counter("render_jobs", "Jobs.", registry=registry).inc(3)
    probes = Probes(started=lambda: switches.started, live=lambda: switches.live, ready=lambda: switches.ready)
    server = HealthServer("127.0.0.1", 0, probes=probes, registry=registry)
    server.start()
    yield server
    server.stop()


def get(server: HealthServer, path: str, method: str = "GET") -> tuple[int, str]:
    request = Request(f"http://127.0.0.1:{server.port}{path}", method=method)
    try:
        with urlopen(request, timeout=5) as reply:
            return reply.status, reply.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_worker_that_loads_is_alive_and_neither_started_nor_ready(server: HealthServer) -> None:
    assert get(server, "/startupz") == (503, "loading engines\n")
    assert get(server, "/healthz") == (200, "alive\n")
    assert get(server, "/readyz") == (503, "loading engines\n")


def test_probes_are_asked_at_every_request(server: HealthServer, switches: Switches) -> None:
    switches.started = Verdict(True, "started")
    switches.live = Verdict(False, "the device is lost")
    switches.ready = Verdict(True, "alive")
    assert get(server, "/startupz") == (200, "started\n")
    assert get(server, "/healthz") == (503, "the device is lost\n")
    assert get(server, "/readyz") == (200, "alive\n")


def test_metrics_are_the_registrys(server: HealthServer) -> None:
    status, text = get(server, "/metrics")
    assert status == 200
    assert "render_jobs_total 3.0" in text


def test_other_paths_are_not_found_and_head_has_no_body(server: HealthServer) -> None:
    assert get(server, "/")[0] == 404
    assert get(server, "/healthz?verbose", method="HEAD") == (200, "")


def test_a_taken_port_is_a_setting_to_correct(server: HealthServer) -> None:
    probes = Probes(**dict.fromkeys(("started", "live", "ready"), lambda: Verdict(True, "")))
    with pytest.raises(SettingsError, match=f"RENDER_METRICS_PORT.*{server.port}"):
        HealthServer("127.0.0.1", server.port, probes=probes, registry=CollectorRegistry())
