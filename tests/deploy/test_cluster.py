"""End to end in containers: a CSV in a bucket, an engine set in a bucket, and workers that come, go and are killed."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

import tools.demo
from engines.check.score import distance
from jobs.ledger.kombu_view import UNACKED
from jobs.ledger.ledger import Ledger
from tests.deploy.cluster import KEEP, WORKER, Cluster, jobs_csv, upload
from tests.deploy.containers import Container, Containers
from tests.deploy.images import Images
from tests.eventually import eventually
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis
from tools.progress import say
from tools.worker_process import WorkerProcess

pytestmark = [pytest.mark.deploy, pytest.mark.slow, pytest.mark.timeout(3000)]

ENOUGH_DB, LEVELS = 60.0, 1
ROWS, STEPS = 32, 4
RENDER_SECONDS = 600.0


@dataclass
class Running:
    """The cluster, with keep and one worker."""

    cluster: Cluster
    keep: Container
    worker: Container
    measured: dict[str, Any]


@pytest.fixture(scope="module")
def running(containers: Containers, images: Images) -> Iterator[Running]:
    subprocess.run([sys.executable, "examples/photos.py"], cwd=ROOT, check=True)
    names = {"worker": images.worker(), "worker with `engines build`": images.builder(), "producer": images.producer()}
    measured: dict[str, Any] = {"image_bytes": {k: containers.inspect("image", v)["Size"] for k, v in names.items()}}
    cluster, pods = Cluster(containers, images), dict[str, Container]()
    measured["pushed"] = cluster.build_set()
    upload(cluster, ROOT / "examples", "jobs")
    for name in (KEEP, WORKER):
        began = time.monotonic()
        started = cluster.apply(name)
        cluster.wait_until_ready(started)
        measured[f"{name}: seconds from apply to ready"] = round(time.monotonic() - began, 1)
        pods[name] = started
    keep, worker = pods[KEEP], pods[WORKER]
    measured["keep_memory"], measured["worker_memory_idle"] = cluster.memory(keep), cluster.memory(worker)
    yield Running(cluster, keep, worker, measured)
    containers.remove_containers()
    path = containers.folder / "measured.json"
    path.write_text(json.dumps(measured, indent=2) + "\n")
    say(f"{path}: {json.dumps(measured)}")


@pytest.fixture(scope="module")
def rendered(running: Running) -> list[dict[str, Any]]:
    """The results of examples/jobs.csv, rendered in the cluster."""
    uri = f"s3://{running.cluster.s3.bucket}/jobs/jobs.csv"
    done = json.loads(running.cluster.producer("submit", uri, "--batch", "demo", "--wait"))
    assert done["counts"]["done"] == done["rows"] == 10
    running.measured["worker_memory_busy"] = running.cluster.memory(running.worker)
    lines = running.cluster.producer("results", "demo").splitlines()
    return sorted((json.loads(line) for line in lines), key=lambda result: result["row"])


@pytest.fixture(scope="module")
def expected(rendered: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """The same rows as `make demo` renders them: its engine set, and a worker of this tree on this machine.

    A row with the seed -1 draws its seed from the job's id, which differs: it gets the seed that was drawn there.
    """
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tools.demo, "STATE", folder)
        patch.setattr(tools.demo, "ENGINES", folder / "engine-set")
        tools.demo.build_engines()
    csv = (ROOT / "examples" / "jobs.csv").read_text()
    drawn = rendered[-1]["seed"]
    assert csv.count(",-1,") == 1
    (folder / "jobs.csv").write_text(csv.replace(",-1,", f",{drawn},"))
    (folder / "photos").symlink_to(ROOT / "examples" / "photos")
    with EmbeddedRedis() as server:
        environment = os.environ | {
            "RENDER_REDIS_URL": server.url,
            "RENDER_OUTPUT_URI": str(folder / "out"),
            "RENDER_ALLOW_FOLDERS": f"{folder},{ROOT / 'examples'}",
            "RENDER_ENGINE_DIR": str(folder / "engine-set"),
        }
        submit = [sys.executable, "-m", "producer", "submit", str(folder / "jobs.csv"), "--batch", "demo", "--wait"]
        results = [sys.executable, "-m", "producer", "results", "demo"]
        with WorkerProcess(environment=environment, log=folder / "worker.log"):
            subprocess.run(submit, env=environment, cwd=ROOT, check=True, capture_output=True, timeout=RENDER_SECONDS)
            lines = subprocess.run(results, env=environment, cwd=ROOT, check=True, capture_output=True).stdout
    return sorted((json.loads(line) for line in lines.splitlines()), key=lambda result: result["row"])


def picture(data: bytes) -> tuple[np.ndarray, dict[str, str]]:
    """Pixels and text chunks."""
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return np.asarray(image), {str(key): str(value) for key, value in image.info.items()}


def local(uri: str) -> bytes:
    return Path(uri.removeprefix("file://")).read_bytes()


def test_every_picture_of_the_cluster_is_the_demos(
    running: Running, rendered: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    assert [result["row"] for result in rendered] == [result["row"] for result in expected]
    worst = {}
    for one, other in zip(rendered, expected, strict=True):
        assert len(one["samples"]) == len(other["samples"])
        for ours, theirs in zip(one["samples"], other["samples"], strict=True):
            found = distance(picture(running.cluster.s3.read(ours))[0], picture(local(theirs))[0])
            worst[f"row {one['row']}"] = found
            assert found.psnr_db >= ENOUGH_DB, worst
            assert found.largest <= LEVELS, worst
    running.measured["worst"] = min(worst.values(), key=lambda found: found.psnr_db).to_json()


def test_every_edge_map_is_the_demos_bit_for_bit(
    running: Running, rendered: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    for one, other in zip(rendered, expected, strict=True):
        ours, theirs = picture(running.cluster.s3.read(one["canny"])), picture(local(other["canny"]))
        assert np.array_equal(ours[0], theirs[0]), f"row {one['row']}"


def test_every_text_chunk_is_the_demos_but_for_job_and_image(
    running: Running, rendered: list[dict[str, Any]], expected: list[dict[str, Any]]
) -> None:
    for one, other in zip(rendered, expected, strict=True):
        for ours, theirs in zip(one["samples"], other["samples"], strict=True):
            texts = [picture(running.cluster.s3.read(ours))[1], picture(local(theirs))[1]]
            records = [json.loads(text.pop("render")) for text in texts]
            assert texts[0] == texts[1], f"row {one['row']}"
            different = {key for key in records[0] | records[1] if records[0].get(key) != records[1].get(key)}
            assert different <= {"job", "image"}, f"row {one['row']}: {different}"


def test_probes_answer_and_nothing_runs_as_root(running: Running) -> None:
    for container in (running.keep, running.worker):
        for path in ("/healthz", "/metrics"):
            eventually(partial(running.cluster.answers, container, path), what=f"{path} of {container.name}")
        assert container.exec("id", "-u") == "10001"
        assert container.exec("sh", "-c", "touch /work/x /x 2>/dev/null; ls /work/x /x 2>/dev/null; true") == ""
    words = running.worker.exec("cat", "/proc/1/cmdline").split("\0")
    assert [Path(word).name for word in words][:2] == ["python", "celery"]


@pytest.fixture
def batch(running: Running) -> str:
    """The name of a new batch of which nothing is rendered yet."""
    text = jobs_csv(ROWS, image="photos/cat.png", steps=STEPS)
    name = f"batch-{os.urandom(3).hex()}"
    key = f"jobs/{name}.csv"
    running.cluster.s3.client().put_object(Bucket=running.cluster.s3.bucket, Key=key, Body=text.encode())
    running.cluster.producer("submit", f"s3://{running.cluster.s3.bucket}/{key}", "--batch", name)
    return name


@pytest.fixture
def ledger(running: Running) -> Iterator[Ledger]:
    """The cluster's ledger, from this machine."""
    with redis.Redis.from_url(running.cluster.redis.url_here, decode_responses=True) as client:
        yield Ledger(client)


def unacknowledged(ledger: Ledger) -> int:
    """Messages that workers hold."""
    return ledger.client.hlen(UNACKED)


def test_a_worker_that_is_stopped_gives_everything_back_and_one_that_is_killed_loses_nothing(
    running: Running, batch: str, ledger: Ledger
) -> None:
    cluster = running.cluster
    eventually(lambda: in_mid_batch(ledger, batch), seconds=RENDER_SECONDS, what="some jobs done, and some in flight")
    assert running.worker.stop(seconds=60) == 0
    assert unacknowledged(ledger) == 0
    left = ledger.counts(batch)
    assert left.running == 0
    assert left.queued > 0
    assert left.queued + left.done == ROWS
    other = cluster.apply(WORKER, name=f"{WORKER}-other")
    cluster.wait_until_ready(other)
    eventually(lambda: unacknowledged(ledger) > 0, seconds=RENDER_SECONDS, what="the other worker has jobs")
    other.kill()
    cluster.start_again(running.worker)
    cluster.wait_until_ready(running.worker)
    eventually(lambda: ledger.counts(batch).done == ROWS, seconds=RENDER_SECONDS, what="every job ends done")
    eventually(lambda: unacknowledged(ledger) == 0, what="nothing is unacknowledged")
    assert other.state["ExitCode"] == 137 or other.restarts > 0
    results = [json.loads(line) for line in cluster.producer("results", batch).splitlines()]
    assert len({result["row"] for result in results}) == len(results) == ROWS
    for result in results:
        assert result["state"] == "done"
        for uri in result["samples"]:
            assert picture(cluster.s3.read(uri))[0].shape[2] == 3


def in_mid_batch(ledger: Ledger, batch: str) -> bool:
    """Whether some of a batch's jobs are done, and others are in flight."""
    return 0 < ledger.counts(batch).done < ROWS and unacknowledged(ledger) > 0
