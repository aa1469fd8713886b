"""deploy/kubernetes/components/keda: one ScaledObject whose names exist in KEDA, in the Deployment and in Redis."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import redis
import yaml

from benchmarks.queue_client import QueueClient, connect
from benchmarks.sample_jobs import job_of
from benchmarks.scaled_object import FORMULA, Counts
from jobs.ledger.keys import delayed_key
from jobs.ledger.kombu_view import UNACKED
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from tests.deploy.crds import SCALERS, document_problems, folder, schemas, trigger_names, trigger_problems
from tests.deploy.overlays import rendered
from tests.pages import blocks
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis

pytestmark = pytest.mark.deploy

COMPONENT = ROOT / "deploy/kubernetes/components/keda"
SCALING_PAGE = ROOT / "docs/scaling.md"

# What KEDA does to count a key of any type: one script, whose commands Redis checks against the user's rights too.
COUNT = """
local kind = redis.call('TYPE', KEYS[1]).ok
if kind == 'hash' then return redis.call('HLEN', KEYS[1]) end
if kind == 'zset' then return redis.call('ZCARD', KEYS[1]) end
return redis.call('LLEN', KEYS[1])
"""


def document(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((COMPONENT / name).read_text())
    return loaded


@pytest.fixture
def spec() -> dict[str, Any]:
    loaded: dict[str, Any] = document("scaledobject.yaml")["spec"]
    return loaded


def triggers(spec: dict[str, Any]) -> dict[str, dict[str, str]]:
    return {trigger["name"]: trigger["metadata"] for trigger in spec["triggers"]}


def with_worker(
    path: Path, *, replicas: dict[str, int], queue: str = "render", more: Mapping[str, Any] = MappingProxyType({})
) -> dict[str, dict[str, Any]]:
    """What kustomize makes of a worker, its settings and the component, by kind. `more` joins the kustomization."""
    (path / "deployment.yaml").write_text(yaml.safe_dump({**WORKER, "spec": {**WORKER["spec"], **replicas}}))
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": ["deployment.yaml"],
        "configMapGenerator": [{"name": "batch-renderer", "literals": [f"RENDER_QUEUE={queue}"]}],
        "components": [os.path.relpath(COMPONENT, path.resolve())],
        **more,
    }
    (path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return {each["kind"]: each for each in rendered(path)}


LABELS = {"app.kubernetes.io/component": "worker"}
WORKER: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "batch-renderer-worker"},
    "spec": {
        "selector": {"matchLabels": LABELS},
        "template": {"metadata": {"labels": LABELS}, "spec": {"containers": [{"name": "worker", "image": "worker"}]}},
    },
}


@pytest.mark.parametrize("replicas", [{"replicas": 2}, {}], ids=["with replicas", "without"])
def test_the_deployment_keeps_no_replicas_and_everything_else(tmp_path: Path, replicas: dict[str, int]) -> None:
    documents = with_worker(tmp_path, replicas=replicas)
    assert set(documents) == {"ConfigMap", "Deployment", "ScaledObject", "TriggerAuthentication"}
    assert documents["Deployment"] == WORKER
    assert documents["ScaledObject"] == document("scaledobject.yaml")
    assert documents["ScaledObject"]["spec"]["scaleTargetRef"]["name"] == WORKER["metadata"]["name"]


def test_another_queue_of_the_settings_is_the_one_that_is_counted(tmp_path: Path) -> None:
    spec = with_worker(tmp_path, replicas={}, queue="night.posters-2")["ScaledObject"]["spec"]
    names = {name: metadata["listName"] for name, metadata in triggers(spec).items()}
    assert names == {"queued": "night.posters-2", "unacknowledged": UNACKED, "delayed": delayed_key("night.posters-2")}


def test_the_patch_on_the_page_sets_the_most_gpus_and_the_target(tmp_path: Path) -> None:
    (patches,) = [body for _, body in blocks(SCALING_PAGE) if body.startswith("patches:")]
    spec = with_worker(tmp_path, replicas={}, more=yaml.safe_load(patches))["ScaledObject"]["spec"]
    assert spec["maxReplicaCount"] == 12
    assert spec["advanced"]["scalingModifiers"]["target"] == "432"


def test_the_three_counts_are_named_and_summed_in_one_metric(spec: dict[str, Any]) -> None:
    modifiers = spec["advanced"]["scalingModifiers"]
    assert modifiers["formula"] == FORMULA
    assert modifiers["metricType"] == "AverageValue"
    assert set(triggers(spec)) == {"queued", "unacknowledged", "delayed"}


def test_the_triggers_name_the_keys_that_the_queue_has(spec: dict[str, Any]) -> None:
    settings = Settings()
    names = {name: metadata["listName"] for name, metadata in triggers(spec).items()}
    assert names == {"queued": settings.queue, "unacknowledged": UNACKED, "delayed": delayed_key(settings.queue)}


def test_all_workers_may_leave_and_one_starts_at_the_first_job(spec: dict[str, Any]) -> None:
    assert spec["minReplicaCount"] == 0
    assert float(spec["advanced"]["scalingModifiers"]["activationTarget"]) == 0
    assert "idleReplicaCount" not in spec


def test_the_fallback_is_one_that_keda_really_uses(spec: dict[str, Any]) -> None:
    """KEDA reads the target as a whole number, or has no fallback; with zero replicas it scales to zero on errors; and
    with a threshold above zero it never gets there, since it cannot build its client for a Redis that is away.
    """
    assert int(spec["advanced"]["scalingModifiers"]["target"]) > 0
    assert spec["fallback"]["replicas"] >= 1
    assert spec["fallback"]["failureThreshold"] == 0
    assert spec["fallback"]["behavior"] == "currentReplicasIfHigher"


def test_workers_leave_slowly(spec: dict[str, Any]) -> None:
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert down["stabilizationWindowSeconds"] >= 60
    assert all(policy["periodSeconds"] >= 60 and policy["value"] <= 50 for policy in down["policies"])


def test_the_target_is_the_one_that_the_page_computes(spec: dict[str, Any]) -> None:
    target = int(spec["advanced"]["scalingModifiers"]["target"])
    assert target == round(9.5 * 180)
    assert f"{target:,}" in SCALING_PAGE.read_text()


def test_no_password_is_in_the_files_and_each_trigger_is_authenticated(spec: dict[str, Any]) -> None:
    authentication = document("triggerauthentication.yaml")
    name = authentication["metadata"]["name"]
    assert [trigger["authenticationRef"] for trigger in spec["triggers"]] == [{"name": name}] * 3
    assert set(authentication["spec"]) == {"secretTargetRef"}
    parameters = {each["parameter"]: each["key"] for each in authentication["spec"]["secretTargetRef"]}
    assert {"address", "username", "password", "tls", "ca"} <= set(parameters)
    for key in parameters.values():
        assert f"`{key}`" in SCALING_PAGE.read_text()
    # KEDA refuses `enableTLS` beside the parameter `tls`.
    assert not {"password", "username", "address", "enableTLS"} & {
        key for each in triggers(spec).values() for key in each
    }


@pytest.mark.parametrize("name", ["scaledobject.yaml", "triggerauthentication.yaml"])
def test_the_documents_fit_keda_s_schemas_and_keda_reads_every_name(name: str) -> None:
    loaded = document(name)
    assert document_problems(loaded, schemas()[loaded["apiVersion"], loaded["kind"]]) == []
    assert trigger_problems(loaded, trigger_names()) == []
    for trigger in loaded["spec"].get("triggers", []):
        assert all(isinstance(value, str) for value in trigger["metadata"].values())


def test_keda_s_redis_scaler_takes_every_parameter_of_the_authentication() -> None:
    scalers = {each["type"]: each for each in json.loads((folder() / SCALERS).read_text())["scalers"]}
    parameters = scalers["redis"]["parameters"]
    known = {each["name"] for each in parameters if each.get("triggerAuthenticationVariableReadable")}
    used = [each["parameter"] for each in document("triggerauthentication.yaml")["spec"]["secretTargetRef"]]
    assert set(used) <= known
    assert len(set(used)) == len(used)


def test_a_redis_user_that_may_only_count_reads_the_three_counts_and_nothing_else(spec: dict[str, Any]) -> None:
    """The rights on the page, with real messages: one waits, one is unacknowledged, one is delayed."""
    (rights,) = [line for line in SCALING_PAGE.read_text().splitlines() if line.startswith("ACL SETUSER")]
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        ledger = Ledger(client)
        ledger.open_batch("b", output="s3://bucket/renders", source="file:///b.csv")
        ledger.enqueue([job_of("b", row) for row in (1, 2, 3)])
        with connect(Settings(redis_url=server.url)) as connection:
            worker = QueueClient("worker", connection, ledger)
            assert worker.take()
            assert worker.take()
            put_off = worker.held.pop()
            assert ledger.defer(put_off.job, worker="worker", seconds=60, refund=True)
            put_off.message.ack()
            client.execute_command(*rights.replace("PASSWORD", "secret").split())
            assert counted(server.port, spec) == Counts(queued=1, unacknowledged=1, delayed=1)
            worker.give_back(worker.held[0])


def counted(port: int, spec: dict[str, Any]) -> Counts:
    """What KEDA reads as the user `keda`, which can read no message and change nothing."""
    names = {name: metadata["listName"] for name, metadata in triggers(spec).items()}
    with redis.Redis(port=port, username="keda", password="secret", decode_responses=True) as keda:
        assert keda.ping()
        numbers = {name: int(str(keda.eval(COUNT, 1, key))) for name, key in names.items()}
        for forbidden in (
            ("LRANGE", "render", "0", "-1"),
            ("DEL", "render"),
            ("GET", "render:worker:worker"),
            ("CONFIG", "GET", "*"),
        ):
            with pytest.raises(redis.ResponseError, match=r"(?i)permission|NOPERM"):
                keda.execute_command(*forbidden)
    return Counts(**numbers)
