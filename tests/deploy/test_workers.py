"""How worker and keep run in a cluster: probes, GPUs, updates, interruptions, rolling out a set and rolling it back."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry

from tests.deploy.overlays import (
    BUILDS,
    CLUSTER_OVERLAYS,
    KUBERNETES,
    Document,
    environment_of,
    of_kind,
    pods_of,
    pull_command,
    rendered,
    with_component,
    worker_of,
    workload,
)
from tests.deploy.pod_security import violations
from tests.producer.keep.process import KeepProcess
from worker.observe.health import HealthServer, Probes, Verdict

pytestmark = pytest.mark.deploy

WORKER = "batch-renderer-worker"
GPU = "nvidia.com/gpu"


@pytest.mark.parametrize("overlay", CLUSTER_OVERLAYS)
def test_probes_tell_a_worker_that_loads_from_one_that_is_stuck(overlay: str) -> None:
    worker = worker_of(f"overlays/{overlay}")
    started, live, ready = (worker[f"{kind}Probe"] for kind in ("startup", "liveness", "readiness"))
    # 503 until the engines are loaded, also if loading hangs; /healthz is 200 meanwhile, and /readyz 503 in a pause.
    assert started["httpGet"] == {"path": "/startupz", "port": "metrics"}
    assert started["periodSeconds"] * started["failureThreshold"] >= 300
    assert live["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert ready["httpGet"] == {"path": "/readyz", "port": "metrics"}
    for probe in (started, live, ready):
        assert probe["timeoutSeconds"] > 1  # the default, which a busy node exceeds
        assert probe["failureThreshold"] >= 2


def test_the_worker_answers_every_path_that_a_probe_asks() -> None:
    paths = {probe["httpGet"]["path"] for overlay in CLUSTER_OVERLAYS
             for name, probe in worker_of(f"overlays/{overlay}").items() if name.endswith("Probe")}  # fmt: skip
    yes = lambda: Verdict(True, "yes")  # noqa: E731
    server = HealthServer("127.0.0.1", 0, probes=Probes(started=yes, live=yes, ready=yes), registry=CollectorRegistry())
    server.start()
    try:
        assert {path: status(f"http://127.0.0.1:{server.port}{path}") for path in paths} == dict.fromkeys(paths, 200)
        assert status(f"http://127.0.0.1:{server.port}/started") == 404
    finally:
        server.stop()


def test_keep_answers_every_path_that_a_probe_asks(redis_url: str, tmp_path: Path) -> None:
    (container,) = keep_of("overlays/cpu")
    paths = {probe["httpGet"]["path"] for name, probe in container.items() if name.endswith("Probe")}
    with KeepProcess(tmp_path / "keep.log", environment={"RENDER_REDIS_URL": redis_url}) as keep:
        keep.until_ready()
        assert {path: keep.get(path).status for path in paths} == dict.fromkeys(paths, 200)
        assert keep.get("/started").status == 404


def status(url: str) -> int:
    """The status of a reply."""
    try:
        with urlopen(url, timeout=5) as reply:
            return int(reply.status)
    except HTTPError as error:
        with error:
            return error.code


@pytest.mark.parametrize("overlay", CLUSTER_OVERLAYS)
def test_an_update_needs_no_spare_gpu_and_a_drain_no_healthy_worker(overlay: str) -> None:
    spec = workload(f"overlays/{overlay}", WORKER).owner["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    (budget,) = of_kind(f"overlays/{overlay}", "PodDisruptionBudget")
    assert budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


@pytest.mark.parametrize("overlay", CLUSTER_OVERLAYS)
def test_a_worker_has_one_gpu_where_the_overlay_says_so_and_none_elsewhere(overlay: str) -> None:
    folder = f"overlays/{overlay}"
    pods, has_gpu = workload(folder, WORKER), overlay in ("gpu", "production")
    device = environment_of(folder, worker_of(folder))["RENDER_DEVICE"]
    assert device == ("cuda" if has_gpu else "cpu")
    gpus = [container["resources"]["limits"].get(GPU, 0) for container in pods.containers]
    assert gpus == ([1, 1] if has_gpu else [0, 0])
    tolerated = {toleration["key"] for toleration in pods.spec.get("tolerations", [])}
    assert (GPU in tolerated) is has_gpu
    assert bool(pods.spec.get("nodeSelector")) is has_gpu
    assert all(
        (f"{WORKER}:cuda" in each["image"] or "@sha256:" in each["image"]) is has_gpu for each in pods.containers
    )
    assert not any(GPU in container["resources"]["limits"] for container in keep_of(folder))


def keep_of(folder: str) -> list[Document]:
    """The containers of keep."""
    return workload(folder, "batch-renderer-keep").containers


def test_spot_workers_leave_before_the_cloud_takes_their_node() -> None:
    """The shortest notice is some 30 s, and a pod's grace counts from it."""
    pods = workload("overlays/production", WORKER)
    assert pods.spec["terminationGracePeriodSeconds"] <= 30
    tolerated = {toleration["key"] for toleration in pods.spec["tolerations"]}
    assert tolerated >= {"cloud.google.com/gke-spot", "kubernetes.azure.com/scalesetpriority", "batch-renderer/spot"}
    assert pods.spec["affinity"]["nodeAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert "tolerations" not in workload("overlays/production", "batch-renderer-keep").spec


@pytest.mark.parametrize("build", BUILDS)
def test_a_set_is_built_on_the_kind_of_node_that_it_is_for(build: str) -> None:
    (pods,) = pods_of(f"jobs/build/{build}")
    assert pods.owner["metadata"]["name"] == f"batch-renderer-build-{build}"
    chosen = "".join(pods.spec.get("nodeSelector", {}).get(f"{GPU}.compute.{part}", "") for part in ("major", "minor"))
    assert chosen == build.removeprefix("sm").removeprefix("cpu")
    gpus = [container["resources"]["limits"].get(GPU, 0) for container in pods.containers]
    assert gpus == ([0, 0, 0] if build == "cpu" else [1, 1, 0])
    assert [each["command"] for each in pods.containers] == [["engines", each] for each in ("build", "verify", "push")]
    flavour = "cpu" if build == "cpu" else "cuda"
    assert all(each["image"].endswith(f"/{WORKER}:{flavour}-build") for each in pods.containers)


def digests_rolled_out(folder: Path, digests: str) -> dict[str, Document]:
    """The worker's and keep's pods of an overlay whose ENGINE_DIGESTS are these."""
    folder.mkdir()
    (folder / "kustomization.yaml").write_text(
        f"resources: [{os.path.relpath(KUBERNETES / 'overlays' / 'gpu', folder)}]\n"
        "configMapGenerator:\n"
        f"  - {{name: batch-renderer, behavior: merge, literals: ['ENGINE_DIGESTS={digests}']}}\n"
    )
    return {pods.owner["metadata"]["name"]: pods.owner["spec"]["template"] for pods in pods_of(folder)}


def test_other_digests_replace_the_workers_and_the_earlier_ones_bring_the_earlier_pods_back(tmp_path: Path) -> None:
    first, second, third = (
        digests_rolled_out(tmp_path / name, digests)
        for name, digests in (("first", "aaaa1111"), ("second", "bbbb2222 cccc3333"), ("third", "aaaa1111"))
    )
    assert first[WORKER] != second[WORKER]
    assert first == third


@pytest.mark.parametrize(
    ("variables", "options"),
    [
        ({"ENGINE_DIGESTS": ""}, ["/sets", "--link", "/sets/current"]),
        ({"ENGINE_DIGESTS": "ab12"}, ["/sets", "--link", "/sets/current", "--digest", "ab12"]),
        ({"ENGINE_DIGESTS": "ab12 cd34"}, ["/sets", "--link", "/sets/current", "--digest", "ab12", "--digest", "cd34"]),
        ({"ENGINE_DIGESTS": "", "SETS_FOLDER": "/shared"}, ["/shared", "--link", "/sets/current"]),
    ],
)
def test_the_init_container_names_every_digest(variables: dict[str, str], options: list[str], tmp_path: Path) -> None:
    pull = next(each for each in workload("overlays/gpu", WORKER).spec["initContainers"] if each["name"] == "pull")
    words = pull_command(pull, tmp_path, {"ENGINE_SETS": "s3://a b/sets", **variables})
    assert words == ["engines", "pull", "s3://a b/sets", "--into", *options]


def test_a_shared_volume_holds_the_sets_and_each_pod_its_own_link(tmp_path: Path) -> None:
    folder = with_component(tmp_path / "overlay", "shared-sets")
    pods = workload(folder, WORKER)
    (claim,) = of_kind(folder, "PersistentVolumeClaim")
    volumes = {volume["name"]: volume for volume in pods.spec["volumes"]}
    assert volumes["shared-sets"]["persistentVolumeClaim"] == {"claimName": claim["metadata"]["name"]}
    assert "emptyDir" in volumes["sets"]
    assert violations(pods.spec) == []
    pull, worker = pods.containers
    assert environment_of(folder, pull)["SETS_FOLDER"] == "/shared-sets"
    for container in (pull, worker):  # at the same path, since the link is followed by both
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts["shared-sets"]["mountPath"] == "/shared-sets"
        assert mounts["shared-sets"].get("readOnly", False) is (container is worker)
        assert mounts["sets"]["mountPath"] == "/sets"


def test_podman_gets_what_it_can_run() -> None:
    """The overlay of test_cluster.py differs from the base only where podman needs it."""
    assert {document["kind"] for document in rendered("overlays/podman")} == {"ConfigMap", "Deployment"}
    for pods in pods_of("overlays/podman"):
        assert pods.spec["restartPolicy"] == "OnFailure"
        for container in pods.containers:
            assert not {"ports", "resources", "startupProbe", "livenessProbe", "readinessProbe"} & set(container)
    base, here = (workload(f"overlays/{name}", WORKER) for name in ("cpu", "podman"))
    for name in ("securityContext", "volumes", "terminationGracePeriodSeconds"):
        assert here.spec[name] == base.spec[name]
    for name in ("command", "args", "env", "securityContext", "volumeMounts"):
        assert here.spec["initContainers"][0][name] == base.spec["initContainers"][0][name]
