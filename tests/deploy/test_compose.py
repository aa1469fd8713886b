"""compose.yaml: what it promises, and the cpu profile, brought up and used."""

from __future__ import annotations

import json
import os
import re
import secrets
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from jobs.settings import Settings
from tests.deploy import compose
from tests.deploy.compose import Project
from tests.deploy.containers import Containers, get
from tests.deploy.images import Images
from tests.eventually import eventually
from tests.s3_server import s3_server
from tools import ROOT
from tools.embedded_redis import free_port

pytestmark = [pytest.mark.deploy, pytest.mark.timeout(3000)]

OURS = ("bucket", "build-cpu", "pull-cpu", "worker-cpu", "build-gpu", "pull-gpu", "worker-gpu", "keep", "submit")
ONCE = ("bucket", "build-cpu", "pull-cpu", "build-gpu", "pull-gpu", "submit")
# Grafana has no Debian package, and no registry is needed for these tests.
STEPS = (("redis", "s3"), ("bucket",), ("build-cpu",), ("pull-cpu",), ("worker-cpu", "keep", "prometheus"))
ROWS = 3
SECONDS = 300.0


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(compose.FILE.read_text())
    return loaded


def test_the_file_is_valid(document: dict[str, Any]) -> None:
    assert compose.problems(document) == []


def test_the_schema_finds_mistakes(document: dict[str, Any]) -> None:
    services = document["services"] | {"redis": document["services"]["redis"] | {"prots": ["6379"]}}
    assert compose.problems(document | {"services": services}) != []


def test_nothing_is_published_beyond_this_machine(document: dict[str, Any]) -> None:
    ports = [port for service in document["services"].values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


@pytest.mark.parametrize("name", OURS)
def test_our_containers_have_no_rights(document: dict[str, Any], name: str) -> None:
    service = document["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    mounts = [volume.split(":")[1] for volume in service.get("volumes", []) if not volume.endswith(":ro")]
    mounts += [path.split(":")[0] for path in service.get("tmpfs", [])]
    assert set(mounts) <= {"/cache", "/sets"}


def test_what_runs_on_starts_again_and_what_ends_does_not(document: dict[str, Any]) -> None:
    policies = {name: service["restart"] for name, service in document["services"].items()}
    assert {name for name, policy in policies.items() if policy == "no"} == set(ONCE)
    assert {policy for name, policy in policies.items() if name not in ONCE} == {"unless-stopped"}


def test_a_worker_gets_its_grace_and_a_gpu_where_there_is_one(document: dict[str, Any]) -> None:
    for name in ("worker-cpu", "worker-gpu"):
        worker = document["services"][name]
        grace = float(worker["environment"]["RENDER_GRACE_SECONDS"])
        assert int(worker["stop_grace_period"].removesuffix("s")) >= grace + 20
        assert worker["depends_on"]["redis"]["condition"] == "service_healthy"
    devices = document["services"]["worker-gpu"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}]
    assert "deploy" not in document["services"]["worker-cpu"]


def test_every_setting_that_is_named_exists(document: dict[str, Any]) -> None:
    known = {f"RENDER_{name.upper()}" for name in Settings.model_fields}
    for service in document["services"].values():
        named = {name for name in service.get("environment", {}) if name.startswith("RENDER_")}
        assert named <= known


def test_every_variable_is_in_the_example_and_every_secret_must_be_set() -> None:
    text, example = compose.FILE.read_text(), (ROOT / ".env.example").read_text()
    used = set(re.findall(r"\$\{([A-Z0-9_]+)", text))
    assert used == set(re.findall(r"[A-Z][A-Z0-9_]{3,}", example))
    required = set(re.findall(r"\$\{([A-Z0-9_]+):\?", text))
    assert required == {"REDIS_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "GRAFANA_PASSWORD"}
    assert required == set(re.findall(r"^([A-Z0-9_]+)=", example, re.MULTILINE))


def test_each_step_of_the_start_comes_after_what_it_depends_on(document: dict[str, Any]) -> None:
    order = [name for step in STEPS for name in step]
    for name in order:
        needed = document["services"][name].get("depends_on", {})
        assert {each for each in needed if order.index(each) >= order.index(name)} == set(), name
        once = {each for each, how in needed.items() if how["condition"] == "service_completed_successfully"}
        assert once == set(needed) & set(ONCE), name


def test_every_mounted_file_exists(document: dict[str, Any]) -> None:
    for service in document["services"].values():
        for volume in service.get("volumes", []):
            source = re.sub(r"^\$\{[A-Z_]+:-(.*?)\}", r"\1", volume).split(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source


def test_the_bucket_is_made_where_there_is_none_and_left_where_there_is_one(
    document: dict[str, Any], tmp_path: Path
) -> None:
    python, *arguments = document["services"]["bucket"]["entrypoint"]
    assert python == "python"
    with s3_server(tmp_path) as store, pytest.MonkeyPatch.context() as patch:
        for name, value in {**store, "BUCKET": f"render-{secrets.token_hex(4)}"}.items():
            patch.setenv(name, value)
        client = boto3.client("s3")
        subprocess.run([sys.executable, *arguments], check=True)
        client.put_object(Bucket=os.environ["BUCKET"], Key="a", Body=b"b")
        subprocess.run([sys.executable, *arguments], check=True)
        assert client.get_object(Bucket=os.environ["BUCKET"], Key="a")["Body"].read() == b"b"


def test_a_key_that_the_store_refuses_is_a_sentence(document: dict[str, Any], tmp_path: Path) -> None:
    _, *arguments = document["services"]["bucket"]["entrypoint"]
    with s3_server(tmp_path) as store:
        environment = os.environ | store | {"BUCKET": "render", "AWS_SECRET_ACCESS_KEY": "wrong"}
        done = subprocess.run(
            [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
        )
    assert done.returncode == 1
    assert done.stderr.startswith("the store refuses S3_ACCESS_KEY and S3_SECRET_KEY: ")
    assert "bucket render" in done.stderr


@pytest.mark.parametrize(
    "wrong", [{}, {"AWS_ENDPOINT_URL_S3": "s3:7070"}, {"BUCKET": "Not A Bucket"}], ids=["nobody there", "URL", "name"]
)
def test_a_store_that_cannot_be_asked_is_a_sentence(document: dict[str, Any], wrong: dict[str, str]) -> None:
    _, *arguments = document["services"]["bucket"]["entrypoint"]
    environment = os.environ | {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
        "BUCKET": "render",
    }
    done = subprocess.run(
        [sys.executable, *arguments], env=environment | wrong, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("the store cannot be asked; check S3_ENDPOINT and BUCKET in .env")


# -- brought up ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JOBS_DIR: a CSV and its picture."""
    made = tmp_path_factory.mktemp("jobs")
    made.chmod(0o755)
    (made / "jobs.csv").write_text(
        "image,prompt,image_resolution,ddim_steps,seed\n"
        + "".join(f"cat.png,a cat in the colours of day {row},256,4,{row}\n" for row in range(ROWS))
    )
    subprocess.run([sys.executable, ROOT / "examples" / "photos.py", "--out", made], check=True, capture_output=True)
    return made


@pytest.fixture(scope="module")
def ports() -> dict[str, str]:
    return {name: str(free_port()) for name in ("S3_PORT", "KEEP_PORT", "PROMETHEUS_PORT")}


@pytest.fixture(scope="module")
def project(
    containers: Containers,
    images: Images,
    folder: Path,
    ports: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Project]:
    services = images.services()
    variables = {
        "REDIS_PASSWORD": secrets.token_hex(16),
        "S3_ACCESS_KEY": "tester",
        "S3_SECRET_KEY": secrets.token_hex(16),
        "GRAFANA_PASSWORD": "unused",
        "JOBS_DIR": str(folder),
        "SHAPE": "256x256:256x512",
        "REDIS_IMAGE": services,
        "S3_IMAGE": services,
        "PROMETHEUS_IMAGE": services,
        "PRODUCER_IMAGE": images.producer(),
        "WORKER_CPU_IMAGE": images.worker(),
        "BUILD_CPU_IMAGE": images.builder(),
        **ports,
    }
    with Project(containers, tmp_path_factory.mktemp("compose"), variables) as started:
        # podman 4.3 cannot start a container whose dependencies have dependencies: depends_on is followed here.
        for step in STEPS:
            started.compose("up", "--detach", "--no-build", "--no-deps", *step)
            for name in set(step) & set(ONCE):
                started.container(name).wait()
        yield started


def asked(port: str, path: str) -> tuple[int, bytes]:
    """A GET on a published port; see `get`."""
    return get("127.0.0.1", int(port), path)


def test_a_csv_is_rendered(containers: Containers, project: Project, ports: dict[str, str]) -> None:
    worker = project.container("worker-cpu")
    eventually(lambda: "worker_started" in worker.logs(), seconds=SECONDS, what="the worker starts")
    for name in (worker.name, project.container("redis").name):
        eventually(partial(containers.is_healthy, name), what=f"{name} is healthy")
    output = project.compose("run", "--rm", "-T", "--no-deps", "submit", "/jobs/jobs.csv", "--batch", "b", "--wait")
    done = json.loads(output[output.index("{") :])
    assert done["counts"]["done"] == ROWS
    eventually(lambda: asked(ports["KEEP_PORT"], "/readyz")[0] == 200, seconds=SECONDS, what="keep is ready")
    assert asked(ports["KEEP_PORT"], "/healthz")[0] == 200


def test_prometheus_sees_worker_and_keep(project: Project, ports: dict[str, str]) -> None:
    def value(query: str) -> float:
        status, body = asked(ports["PROMETHEUS_PORT"], f"/api/v1/query?query={urllib.parse.quote(query)}")
        found = json.loads(body)["data"]["result"] if status == 200 else []
        return float(found[0]["value"][1]) if found else -1.0

    eventually(lambda: value('render_jobs_total{state="done"}') == ROWS, seconds=SECONDS, what="the worker's metrics")
    eventually(lambda: value("render_redis_up") == 1, seconds=SECONDS, what="keep's metrics")


def test_redis_keeps_the_batch_when_it_starts_again(containers: Containers, project: Project) -> None:
    redis = project.container("redis")
    containers.podman("restart", "--time", "30", redis.name)

    def said(command: str) -> str:
        return redis.exec("sh", "-c", command, check=False)

    process_one = 'tr "\\0" " " < /proc/1/cmdline'
    eventually(lambda: said(process_one).startswith("redis-server"), what="Redis is process 1")
    eventually(lambda: said("redis-cli ping") == "NOAUTH Authentication required.", what="Redis asks for its password")
    keys = 'REDISCLI_AUTH="$REDIS_PASSWORD" redis-cli --scan --pattern "render:batch:b:*" | wc -l'
    eventually(lambda: int(said(keys) or 0) > 0, what="the batch is still in Redis")


def test_the_worker_stops_within_its_grace(project: Project) -> None:
    assert project.container("worker-cpu").stop(seconds=60) == 0
