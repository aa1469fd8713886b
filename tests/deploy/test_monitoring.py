"""Prometheus takes our files, and every query of rules and dashboard gives data about real workers and a real keep."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote
from urllib.request import urlopen

import pytest
import yaml
from PIL import Image, ImageDraw

from tests.deploy.prometheus import FOLDER, Prometheus, program, promtool
from tests.eventually import eventually
from tests.models import tiny_engine_set
from tests.producer.keep.process import KeepProcess
from tests.worker_process import WorkerProcess
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(1200)]  # `system` counts against the first test that uses it

WORKERS, KEEP = "batch-renderer-worker", "batch-renderer-keep"
ENGINES = "RENDER_ENGINE_DIR"
GOOD_ROWS = 12
FIRST_ROWS = 4
DASHBOARD: list[dict[str, Any]] = json.loads((FOLDER / "dashboard.json").read_text())["panels"]
PANELS = [panel for panel in DASHBOARD if panel["type"] != "row"]
RULES = [rule for group in yaml.safe_load((FOLDER / "rules.yaml").read_text())["groups"] for rule in group["rules"]]


# -- files ------------------------------------------------------------------------------------------------------------


def test_promtool_finds_nothing_wrong_with_the_rules() -> None:
    assert f"{len(RULES)} rules found" in promtool("check", "rules", FOLDER / "rules.yaml")


def test_every_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", FOLDER / "rules_test.yaml")


def test_promtool_finds_nothing_wrong_with_the_configuration_for_compose() -> None:
    assert "SUCCESS" in promtool("check", "config", FOLDER / "prometheus.yml")


def test_grafana_is_told_where_its_prometheus_and_its_dashboard_are() -> None:
    (source,) = yaml.safe_load((FOLDER / "grafana" / "datasources" / "prometheus.yaml").read_text())["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    (provider,) = yaml.safe_load((FOLDER / "grafana" / "dashboards" / "files.yaml").read_text())["providers"]
    assert provider["type"] == "file"


# -- a real system ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """Two workers, one of them with a real engine set, keep, and the Prometheus that scrapes them."""

    addresses: dict[str, list[str]]
    prometheus: Prometheus

    def metrics(self, address: str) -> str:
        with urlopen(f"http://{address}/metrics", timeout=10) as reply:
            return str(reply.read().decode())


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Started, scraped when little had happened yet, and then given work of which some fails."""
    program("prometheus")
    folder = tmp_path_factory.mktemp("monitoring")
    rows = _rows(folder)
    with EmbeddedRedis() as redis_server, ExitStack() as processes:
        settings = environment(redis_server.url, folder)
        addresses = _started(processes, settings, folder)
        # A stage has a time only once a job has reached it, and a rate needs one from before the work.
        _submit(folder / "first.csv", rows[:FIRST_ROWS], settings=settings, code=0)
        with Prometheus(folder, addresses) as prometheus:
            scraped = "count(count_over_time(render_heartbeat_failures_total[1m]) >= 2)"
            eventually(lambda: prometheus.number(scraped) == len(addresses[WORKERS]), what="two scrapes of each worker")
            of_keep = "count_over_time(render_worker_exits_total[1m]) >= 2"
            eventually(lambda: prometheus.query(of_keep), what="two scrapes of keep")
            _work(rows, prometheus, settings=settings, folder=folder)
            yield System(addresses, prometheus)


def environment(redis_url: str, folder: Path) -> dict[str, str]:
    values = {
        "redis_url": redis_url, "output_uri": folder / "out", "allow_folders": folder, "metrics_port": 0,
        "jobs_in_flight": 4, "heartbeat_seconds": 0.2, "reconcile_seconds": 0.5,
    }  # fmt: skip
    return {f"RENDER_{name.upper()}": str(value) for name, value in values.items()}


def _started(processes: ExitStack, settings: dict[str, str], folder: Path) -> dict[str, list[str]]:
    """Start two workers and keep; returns where each job's metrics are."""
    sets = ("fake:step_ms=5,max_batch=4", str(tiny_engine_set()))
    workers = [
        processes.enter_context(
            WorkerProcess(environment={**settings, ENGINES: engines}, log=folder / f"{name}.log", name=name)
        )
        for name, engines in zip(("w0", "w1"), sets, strict=True)
    ]
    keep = processes.enter_context(KeepProcess(folder / "keep.log", environment=settings))
    for worker in workers:
        worker.wait_until_started(seconds=120)
    ports = [worker.events("health_listens")[0]["port"] for worker in workers]
    return {WORKERS: [f"127.0.0.1:{port}" for port in ports], KEEP: [f"127.0.0.1:{keep.port}"]}


def _work(rows: list[dict[str, str]], prometheus: Prometheus, *, settings: dict[str, str], folder: Path) -> None:
    """Jobs that are rendered, that fail and that are refused; and a worker that refuses its engine set."""
    _submit(folder / "work.csv", rows, settings=settings)
    # A folder that no worker may write to: each refuses, and then the job fails.
    elsewhere = {**settings, "RENDER_OUTPUT_URI": str(folder.parent / "elsewhere")}
    _submit(folder / "refused.csv", rows[:1], settings=elsewhere)
    refuses = {**settings, ENGINES: str(folder / "no-such-set")}
    with WorkerProcess(environment=refuses, log=folder / "refuses.log", name="w9") as worker:
        assert worker.exit_code(seconds=120) == 4
    seen = 'render_worker_exits_total{reason="engines_refused"} == 1'
    eventually(lambda: prometheus.query(seen), what="the exit in Prometheus")
    scraped, evaluated = time.time(), "timestamp(job:render_jobs_failed:ratio15m)"
    eventually(lambda: (prometheus.number(evaluated) or 0) > scraped + 4, what="two more rounds of scrapes and rules")


def _rows(folder: Path) -> list[dict[str, str]]:
    picture = Image.new("RGB", (96, 64), "navy")
    ImageDraw.Draw(picture).rectangle((20, 15, 60, 45), fill="gold")
    picture.save(folder / "picture.png")
    (folder / "text.png").write_text("no picture")
    good = {"image": "picture.png", "prompt": "a house", "ddim_steps": "4", "image_resolution": "64"}
    return [{**good, "seed": str(seed)} for seed in range(GOOD_ROWS)] + [
        {**good, "image": "missing.png", "seed": "1"}, {**good, "image": "text.png", "seed": "1"}
    ]  # fmt: skip


def _submit(path: Path, rows: list[dict[str, str]], *, settings: dict[str, str], code: int = 1) -> None:
    """Submit a batch of the file's name, and wait for its end. `code` 1: some jobs fail, as they should."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    done = subprocess.run(
        [sys.executable, "-m", "producer", "submit", str(path), "--batch", path.stem, "--wait"],
        cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False, timeout=250,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    counts = json.loads(done.stdout)["counts"]
    assert (counts["queued"], counts["running"]) == (0, 0), counts


# -- what it says -----------------------------------------------------------------------------------------------------


def series_when(
    enough: Callable[[list[dict[str, Any]]], bool], system: System, query: str, *, what: str = ""
) -> list[dict[str, Any]]:
    """The series of a query, as soon as they are `enough`: after a scrape that took too long some are missing."""
    found: list[dict[str, Any]] = []

    def asked() -> bool:
        found[:] = system.prometheus.query(query)
        return enough(found)

    eventually(asked, what=f"{what or 'series'}: {query}")
    return found


def some_number(series: list[dict[str, Any]]) -> bool:
    return any(each["value"][1] != "NaN" for each in series)


def test_the_work_was_shared_and_failed_where_it_should(system: System) -> None:
    expected = {'{state="done"}': FIRST_ROWS + GOOD_ROWS}
    for kind in ("source_not_found", "not_an_image", "output_forbidden"):
        expected[f'{{state="failed", kind="{kind}"}}'] = 1
    for labels, number in expected.items():
        query = f"sum(render_jobs_total{labels}) == {number}"
        series_when(bool, system, query, what="the jobs")


@pytest.mark.parametrize("number", [0, 1])
def test_a_workers_metrics_follow_prometheus_conventions(system: System, number: int) -> None:
    promtool("check", "metrics", text=system.metrics(system.addresses[WORKERS][number]))


def test_keeps_metrics_follow_prometheus_conventions(system: System) -> None:
    promtool("check", "metrics", text=system.metrics(system.addresses[KEEP][0]))


def test_the_engine_set_that_runs_is_told(system: System) -> None:
    series = series_when(lambda found: len(found) == 2, system, "render_engine_info == 1")
    labels = [each["metric"] for each in series]
    assert {each["backend"] for each in labels} == {"fake", "onnxruntime"}
    (real,) = [each for each in labels if each["backend"] == "onnxruntime"]
    assert re.fullmatch("[0-9a-f]{64}", real["engine_set"])
    assert re.fullmatch(r"onnxruntime \d+\.\d+\.\d+", real["runtime"])
    assert (real["precision"], real["architecture"]) == ("fp32", "any")


@pytest.mark.parametrize(
    ("panel", "expression"),
    [
        pytest.param(panel["title"], target["expr"], id=f"{panel['title']}-{target['refId']}")
        for panel in PANELS
        for target in panel["targets"]
    ],
)
def test_every_query_of_the_dashboard_gives_data(system: System, panel: str, expression: str) -> None:
    chosen = re.sub(r"\$(namespace|job|keep|instance)\b", ".*", expression).replace("$__rate_interval", "5m")
    series_when(some_number, system, chosen, what=panel)


def test_the_dashboards_variables_find_the_jobs_and_the_workers(system: System) -> None:
    variables = json.loads((FOLDER / "dashboard.json").read_text())["templating"]["list"]
    found = {}
    for variable in variables:
        if match := re.fullmatch(r"label_values\((.+), (\w+)\)", variable.get("definition", "")):
            matching = re.sub(r"\$\w+", ".*", match[1])
            found[variable["name"]] = system.prometheus.api(f"label/{match[2]}/values?match[]={quote(matching)}")
    assert found == {
        "namespace": [],  # a label of Kubernetes'
        "job": [WORKERS],
        "keep": [KEEP],
        "instance": sorted(system.addresses[WORKERS]),
    }


@pytest.mark.parametrize("record", [rule["record"] for rule in RULES if "record" in rule])
def test_every_recording_rule_gives_data(system: System, record: str) -> None:
    series_when(some_number, system, record)


def test_all_rules_are_loaded_and_evaluate(system: System) -> None:
    loaded = [rule for group in system.prometheus.api("rules")["groups"] for rule in group["rules"]]
    assert {rule["name"] for rule in loaded} == {rule.get("alert") or rule["record"] for rule in RULES}
    assert {rule["name"]: rule.get("lastError") for rule in loaded if rule["health"] != "ok"} == {}


def test_the_refused_engine_set_is_an_alert_and_what_is_well_is_none(system: System) -> None:
    def firing() -> set[str]:
        alerts = system.prometheus.api("alerts")["alerts"]
        return {each["labels"]["alertname"] for each in alerts if each["state"] == "firing"}

    eventually(lambda: "RenderEngineSetRefused" in firing(), what="the alert")
    assert not firing() & {
        "RenderRedisDown",
        "RenderKeepAbsent",
        "RenderLoopStuck",
        "RenderDeviceLost",
        "RenderTargetDown",
    }
