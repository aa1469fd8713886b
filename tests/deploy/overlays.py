"""What kustomize makes of deploy/kubernetes: documents, their pods, and what a pod's containers see as environment."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import kubectl, run
from tools import ROOT

Document = dict[str, Any]

KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("dev", "cpu", "gpu", "production", "podman")
CLUSTER_OVERLAYS = ("dev", "cpu", "gpu", "production")  # podman's is not for Kubernetes
BUILDS = ("cpu", "sm80", "sm86", "sm89", "sm90")
JOBS = ("jobs/submit", *(f"jobs/build/{name}" for name in BUILDS))
FOLDERS = (*(f"overlays/{name}" for name in OVERLAYS), *JOBS)
CLUSTER_FOLDERS = tuple(folder for folder in FOLDERS if folder != "overlays/podman")
# Secrets are made by hand, as deploy/kubernetes/README.md says, so no document here has them.
SECRETS = {
    "batch-renderer-redis": {"RENDER_REDIS_URL": "redis://:secret@redis:6379/0", "REDIS_PASSWORD": "secret"},
    "batch-renderer-s3": {"AWS_ACCESS_KEY_ID": "AKIAEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret"},
}
OPTIONAL = ("private-storage", "shared-sets")  # components that no overlay includes
SUFFIXES = {"m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}


@dataclass(frozen=True)
class Pods:
    """The pods of one workload."""

    owner: Document
    labels: dict[str, str]
    spec: Document

    @property
    def name(self) -> str:
        """Kind and name of the workload, for messages."""
        return f"{self.owner['kind']}/{self.owner['metadata']['name']}"

    @property
    def containers(self) -> list[Document]:
        """Those of the init containers first, as they run."""
        return [*self.spec.get("initContainers", []), *self.spec["containers"]]


@cache
def rendered(folder: str | Path) -> tuple[Document, ...]:
    """The documents of a folder below deploy/kubernetes, or of any other."""
    text = run(kubectl(), "kustomize", KUBERNETES / folder)
    return tuple(document for document in yaml.safe_load_all(text) if document)


def with_component(folder: Path, component: str, overlay: str = "gpu") -> Path:
    """A new folder with an overlay and one component more, as a user would write it; returns the folder."""
    folder.mkdir()
    base, more = (
        os.path.relpath(KUBERNETES / part, folder) for part in (f"overlays/{overlay}", f"components/{component}")
    )
    (folder / "kustomization.yaml").write_text(f"resources: [{base}]\ncomponents: [{more}]\n")
    return folder


def of_kind(folder: str | Path, *kinds: str) -> list[Document]:
    """The documents of these kinds."""
    return [document for document in rendered(folder) if document["kind"] in kinds]


def pods_of(folder: str | Path) -> Iterator[Pods]:
    """The pods of every workload in a folder."""
    for owner in of_kind(folder, "Deployment", "StatefulSet", "Job", "DaemonSet", "CronJob"):
        spec = owner["spec"]["jobTemplate"]["spec"] if owner["kind"] == "CronJob" else owner["spec"]
        template = spec["template"]
        yield Pods(owner, template["metadata"]["labels"], template["spec"])


def workload(folder: str | Path, name: str) -> Pods:
    """The pods of one workload."""
    return next(pods for pods in pods_of(folder) if pods.owner["metadata"]["name"] == name)


def worker_of(folder: str | Path) -> Document:
    """The worker's container."""
    return next(each for each in workload(folder, "batch-renderer-worker").containers if each["name"] == "worker")


def settings_of(folder: str | Path) -> dict[str, str]:
    """The values of the ConfigMap that our containers read. Others, such as a dashboard, are not for them."""
    (settings,) = [each["data"] for each in of_kind(folder, "ConfigMap") if "RENDER_QUEUE" in each["data"]]
    return dict(settings)


def environment_of(folder: str | Path, container: Document) -> dict[str, str]:
    """What a container finds in its environment: `envFrom`, and `env` over it. Secrets have the values of SECRETS.

    Raises:
        KeyError: something is named that is not there.
    """
    maps = {document["metadata"]["name"]: document["data"] for document in of_kind(folder, "ConfigMap")}
    found: dict[str, str] = {}
    for source in container.get("envFrom", []):
        found |= maps[source["configMapRef"]["name"]]
    for variable in container.get("env", []):
        found[variable["name"]] = _value(variable, container)
    return found


def _value(variable: Document, container: Document) -> str:
    if "valueFrom" not in variable:
        return str(variable["value"])
    source = variable["valueFrom"]
    if "secretKeyRef" in source:
        return SECRETS[source["secretKeyRef"]["name"]][source["secretKeyRef"]["key"]]
    field = source["resourceFieldRef"]
    assert field["containerName"] == container["name"], "a field of another container's resources"
    amount: Any = container["resources"]
    for part in field["resource"].split("."):
        amount = amount[part]
    return str(math.ceil(quantity(amount)))  # as the kubelet rounds with the divisor 1


def pull_command(container: Document, folder: Path, variables: dict[str, str]) -> list[str]:
    """The command that the shell of an init container `pull` comes to, word by word.

    The shell runs here. `folder` takes the program that it calls, an `engines` that prints its arguments.
    """
    program = folder / "engines"
    program.write_text("#!/bin/sh\nprintf '%s\\n' engines \"$@\"\n")
    program.chmod(0o755)
    words = [*container["command"], *container["args"]]
    environment = {"PATH": f"{folder}:{os.environ['PATH']}", **variables}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=True).stdout.splitlines()


def quantity(text: str | int) -> float:
    """A Kubernetes quantity as a number: 500m, 2Gi, 4."""
    text = str(text)
    for suffix, factor in SUFFIXES.items():
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)
