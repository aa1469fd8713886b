"""kustomize builds every folder of deploy/kubernetes, and what it makes is valid for Kubernetes 1.31 and 1.37."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.overlays import (
    CLUSTER_FOLDERS,
    FOLDERS,
    KUBERNETES,
    OPTIONAL,
    pods_of,
    quantity,
    rendered,
    with_component,
)
from tests.deploy.tools import kubernetes_validate

pytestmark = pytest.mark.deploy

VERSIONS = ("1.31", "1.37")
CUSTOM = ("keda.sh/", "monitoring.coreos.com/")  # test_crds.py
# What a schema cannot say and a server refuses.
NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
LABEL_NAME = re.compile(r"([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
PORT_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]{0,13}[a-z0-9])?")


def validated(files: list[Path]) -> tuple[int, str]:
    """The exit code and the lines of kubernetes-validate, for all versions."""
    command, environment = kubernetes_validate()
    versions = [word for version in VERSIONS for word in ("--kubernetes-version", version)]
    done = subprocess.run(
        [*command, "--strict", *versions, *map(str, files)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_every_folder_with_a_kustomization_is_tested_or_part_of_one_that_is() -> None:
    """A component or base that nothing uses would be checked by nothing."""
    used = {KUBERNETES / folder for folder in FOLDERS}
    waiting = list(used)
    while waiting:
        folder = waiting.pop()
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())
        parts = {(folder / part).resolve() for part in listed.get("resources", []) + listed.get("components", [])}
        waiting += [part for part in parts - used if part.is_dir()]
        used |= {part for part in parts if part.is_dir()}
    optional = {KUBERNETES / "components" / name for name in OPTIONAL}
    assert {path.parent for path in KUBERNETES.rglob("kustomization.yaml")} - used == optional


def test_every_document_is_valid(tmp_path: Path) -> None:
    files, expected = [], 0
    for folder in (*FOLDERS, *(with_component(tmp_path / name, name) for name in OPTIONAL)):
        known = [document for document in rendered(folder) if not document["apiVersion"].startswith(CUSTOM)]
        expected += len(known) * len(VERSIONS)
        files.append(tmp_path / f"{str(folder).replace('/', '-')}.yaml")
        files[-1].write_text(yaml.safe_dump_all(known))
    code, lines = validated(files)
    assert [line for line in lines.splitlines() if " passed for resource " not in line] == []
    assert (code, lines.count(" passed for resource ")) == (0, expected)


def test_a_misspelt_field_is_not_valid(tmp_path: Path) -> None:
    document = next(each for each in rendered("overlays/cpu") if each["kind"] == "PodDisruptionBudget")
    odd = tmp_path / "odd.yaml"
    odd.write_text(yaml.safe_dump({**document, "spec": {**document["spec"], "maxUnavailabel": 1}}))
    code, lines = validated([odd])
    assert code == 1
    assert lines.count("'maxUnavailabel' was unexpected") == len(VERSIONS)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_document_is_there_twice_or_has_a_namespace(folder: str) -> None:
    names = Counter((each["apiVersion"], each["kind"], each["metadata"]["name"]) for each in rendered(folder))
    assert [name for name, count in names.items() if count > 1] == []
    assert [each["metadata"]["name"] for each in rendered(folder) if "namespace" in each["metadata"]] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_names_and_labels_are_ones_that_a_server_takes(folder: str) -> None:
    for document in rendered(folder):
        assert NAME.fullmatch(document["metadata"]["name"])
        for labels in all_labels(document):
            assert all(LABEL_NAME.fullmatch(name) for name in labels), labels
            assert all(isinstance(value, str) and LABEL_VALUE.fullmatch(value) for value in labels.values()), labels


def all_labels(value: Any) -> list[dict[str, Any]]:
    """Every mapping of labels in a document, wherever it is."""
    found = []
    if isinstance(value, dict):
        for name, item in value.items():
            if name in ("labels", "matchLabels", "nodeSelector") and isinstance(item, dict):
                found.append(item)
            found += all_labels(item)
    elif isinstance(value, list):
        found = [labels for item in value for labels in all_labels(item)]
    return found


@pytest.mark.parametrize("folder", CLUSTER_FOLDERS)
def test_pods_have_what_a_server_asks_for(folder: str) -> None:
    for pods in pods_of(folder):
        policy, is_job = pods.spec.get("restartPolicy", "Always"), pods.owner["kind"] == "Job"
        assert (policy in ("Never", "OnFailure")) is is_job, f"{pods.name}: restartPolicy {policy}"
        if "podFailurePolicy" in pods.owner["spec"]:
            assert policy == "Never"
        names = [container["name"] for container in pods.containers]
        assert len(set(names)) == len(names)
        for container in pods.containers:
            assert all(PORT_NAME.fullmatch(port["name"]) for port in container.get("ports", []))
            requests, limits = container["resources"]["requests"], container["resources"]["limits"]
            assert set(requests) >= {"cpu", "memory", "ephemeral-storage"}
            assert all(quantity(amount) <= quantity(limits[name]) for name, amount in requests.items()), pods.name


@pytest.mark.parametrize("folder", CLUSTER_FOLDERS)
def test_volumes_are_bounded_and_the_limits_hold_them(folder: str) -> None:
    """A pod that writes more than its containers' limits of ephemeral storage is evicted."""
    for pods in pods_of(folder):
        sizes = [volume["emptyDir"]["sizeLimit"] for volume in pods.spec.get("volumes", []) if "emptyDir" in volume]
        limits = [container["resources"]["limits"]["ephemeral-storage"] for container in pods.containers]
        assert sum(map(quantity, sizes)) <= min(map(quantity, limits)), pods.name
