"""What pods find in their environment is what our settings, `engines` and boto3 read."""

from __future__ import annotations

import re
from typing import Any

import pytest
from botocore.configprovider import BOTOCORE_DEFAUT_SESSION_VARIABLES
from botocore.credentials import EnvProvider

from jobs.settings import Settings, load_settings
from tests.deploy.overlays import (
    CLUSTER_OVERLAYS,
    FOLDERS,
    OVERLAYS,
    SECRETS,
    environment_of,
    of_kind,
    pods_of,
    quantity,
    rendered,
    settings_of,
    worker_of,
    workload,
)
from tools import ROOT

pytestmark = pytest.mark.deploy

KNOWN = {f"RENDER_{name.upper()}" for name in Settings.model_fields}
OURS = {"ENGINE_SETS", "ENGINE_DIGESTS", "SETS_FOLDER", "REDIS_PASSWORD", "REDISCLI_AUTH"}  # of deploy/kubernetes alone
SECRET_NAME = re.compile(r"PASSWORD|SECRET|TOKEN|ACCESS_KEY|REDIS_URL|AUTH")
WITH_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]+@")


def aws_names() -> set[str]:
    """The variables that boto3 reads."""
    found = {name for _, names, *_ in BOTOCORE_DEFAUT_SESSION_VARIABLES.values() for name in _listed(names)}
    keys = [EnvProvider.ACCESS_KEY, EnvProvider.SECRET_KEY, *EnvProvider.TOKENS]
    return found | set(keys) | {"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"}


def _listed(names: Any) -> list[str]:
    return [names] if isinstance(names, str) else list(names or [])


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_variable_is_one_that_something_reads(folder: str) -> None:
    known = KNOWN | OURS | aws_names()
    for pods in pods_of(folder):
        for container in pods.containers:
            assert set(environment_of(folder, container)) - known == set(), f"{pods.name}, {container['name']}"
    assert set(settings_of(folder)) - known == set()


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_settings_are_good_ones(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for pods in pods_of(folder):
        for container in pods.containers:
            environment = environment_of(folder, container)
            with monkeypatch.context() as patch:
                for name in KNOWN:
                    patch.delenv(name, raising=False)
                for name, value in environment.items():
                    patch.setenv(name, value)
                settings = load_settings()
            named = {name.removeprefix("RENDER_").lower() for name in environment if name in KNOWN}
            assert settings.model_fields_set == named, f"{pods.name}, {container['name']}"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_worker_loads_what_its_init_container_pulled_and_serves_where_prometheus_asks(overlay: str) -> None:
    folder = f"overlays/{overlay}"
    pods = workload(folder, "batch-renderer-worker")
    found = environment_of(folder, worker_of(folder))
    assert (found["RENDER_ENGINE_DIR"], found["RENDER_METRICS_HOST"]) == ("/sets/current", "0.0.0.0")
    pull = next(each for each in pods.spec["initContainers"] if each["name"] == "pull")
    assert "engines pull" in pull["args"][0]
    assert "--link /sets/current" in pull["args"][0]
    assert {"ENGINE_SETS", "ENGINE_DIGESTS"} <= set(environment_of(folder, pull))
    if overlay != "podman":
        assert worker_of(folder)["ports"] == [
            {"name": "metrics", "containerPort": int(found["RENDER_METRICS_PORT"]), "protocol": "TCP"}
        ]
        keep = workload(folder, "batch-renderer-keep").spec["containers"][0]
        port = int(environment_of(folder, keep)["RENDER_KEEP_PORT"])
        assert keep["ports"] == [{"name": "http", "containerPort": port, "protocol": "TCP"}]


@pytest.mark.parametrize("overlay", CLUSTER_OVERLAYS)
def test_the_kubelet_waits_longer_than_the_worker_takes_to_stop(overlay: str) -> None:
    """docs/operations.md: RENDER_GRACE_SECONDS plus 20 s."""
    folder = f"overlays/{overlay}"
    grace = float(environment_of(folder, worker_of(folder))["RENDER_GRACE_SECONDS"])
    assert workload(folder, "batch-renderer-worker").spec["terminationGracePeriodSeconds"] >= grace + 20


@pytest.mark.parametrize("overlay", CLUSTER_OVERLAYS)
def test_engines_start_as_many_threads_as_the_limit_allows(overlay: str) -> None:
    worker = worker_of(f"overlays/{overlay}")
    threads = environment_of(f"overlays/{overlay}", worker)["RENDER_THREADS"]
    assert int(threads) == quantity(worker["resources"]["limits"]["cpu"])


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_secret_has_a_value(folder: str) -> None:
    assert of_kind(folder, "Secret") == []
    for settings in of_kind(folder, "ConfigMap"):
        assert [name for name in settings["data"] if SECRET_NAME.search(name)] == []
        assert [name for name, value in settings["data"].items() if WITH_PASSWORD.search(value)] == []
    for pods in pods_of(folder):
        for container in pods.containers:
            for variable in container.get("env", []):
                if SECRET_NAME.search(variable["name"]):
                    assert "secretKeyRef" in variable.get("valueFrom", {}), f"{pods.name}: {variable['name']}"


def test_the_readme_shows_how_to_make_every_secret_that_is_named() -> None:
    text = (ROOT / "deploy" / "kubernetes" / "README.md").read_text()
    named: dict[str, set[str]] = {}
    for folder in FOLDERS:
        for reference in secret_references(list(rendered(folder))):
            named.setdefault(reference["name"], set()).add(reference["key"])
    assert named.keys() >= SECRETS.keys()
    for name, keys in named.items():
        if name in SECRETS:
            assert keys <= set(SECRETS[name])
            shown = text.partition(f"kubectl create secret generic {name}")[2].partition("```")[0]
            assert all(f"--from-literal={key}=" in shown for key in keys), f"{name}: {sorted(keys)}"
        else:
            assert name in text, f"the README does not mention the Secret {name}"


def secret_references(value: Any) -> list[dict[str, str]]:
    """Every reference to a key of a Secret: of a container's variables, and of KEDA's parameters."""
    if isinstance(value, list):
        return [reference for item in value for reference in secret_references(item)]
    if not isinstance(value, dict):
        return []
    own = [value["secretKeyRef"]] if "secretKeyRef" in value else value.get("secretTargetRef", [])
    return own + [reference for item in value.values() for reference in secret_references(item)]
