"""Documents of deploy/kubernetes name one another: selectors, ports, ConfigMaps, Secrets, accounts, volumes, images."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.deploy.overlays import (
    CLUSTER_FOLDERS,
    CLUSTER_OVERLAYS,
    FOLDERS,
    JOBS,
    OVERLAYS,
    environment_of,
    of_kind,
    pods_of,
    rendered,
    settings_of,
)

pytestmark = pytest.mark.deploy

NAME = "app.kubernetes.io/name"
COMPONENT = "app.kubernetes.io/component"
PART_OF = "app.kubernetes.io/part-of"
COMPONENTS = {"worker", "keep", "redis", "build", "submit"}
IMAGE = re.compile(r"[a-z0-9][-a-z0-9._/:]*?(?P<tag>:[A-Za-z0-9_][-A-Za-z0-9_.]*)?(?P<digest>@sha256:[0-9a-f]{64})?")


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a label selector chooses something with these labels. An empty one chooses everything."""
    wanted = selector.get("matchLabels", {})
    if any(labels.get(name) != value for name, value in wanted.items()):
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions", []))


def _holds(expression: dict[str, Any], labels: dict[str, str]) -> bool:
    value, operator = labels.get(expression["key"]), expression["operator"]
    if operator in ("Exists", "DoesNotExist"):
        return (value is not None) is (operator == "Exists")
    return (value in expression["values"]) is (operator == "In")


@pytest.mark.parametrize("folder", FOLDERS)
def test_everything_is_labelled(folder: str) -> None:
    for document in rendered(folder):
        labels = document["metadata"]["labels"]
        assert (labels[NAME], labels[PART_OF]) == ("batch-renderer", "batch-renderer"), document["metadata"]["name"]
    for pods in pods_of(folder):
        assert (pods.labels[NAME], pods.labels[PART_OF]) == ("batch-renderer", "batch-renderer")
        assert pods.labels[COMPONENT] in COMPONENTS


@pytest.mark.parametrize("folder", FOLDERS)
def test_selectors_choose_the_pods_of_their_own_workload_alone(folder: str) -> None:
    every = list(pods_of(folder))
    for pods in every:
        if selector := pods.owner["spec"].get("selector"):
            assert [each.name for each in every if selects(selector, each.labels)] == [pods.name]
        for constraint in pods.spec.get("topologySpreadConstraints", []):
            assert selects(constraint["labelSelector"], pods.labels)


@pytest.mark.parametrize("overlay", CLUSTER_OVERLAYS)
def test_services_and_budgets_choose_pods_and_services_name_ports(overlay: str) -> None:
    folder = f"overlays/{overlay}"
    for service in of_kind(folder, "Service"):
        chosen = [
            pods for pods in pods_of(folder) if selects({"matchLabels": service["spec"]["selector"]}, pods.labels)
        ]
        assert len(chosen) == 1, service["metadata"]["name"]
        named = {port["name"] for container in chosen[0].containers for port in container.get("ports", [])}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= named
    (budget,) = of_kind(folder, "PodDisruptionBudget")
    chosen = [pods for pods in pods_of(folder) if selects(budget["spec"]["selector"], pods.labels)]
    assert [pods.name for pods in chosen] == ["Deployment/batch-renderer-worker"]


def test_monitors_choose_something_and_name_ports_that_are_there() -> None:
    """A monitor that chooses nothing is no error to Prometheus."""
    folder = "overlays/production"
    for monitor in of_kind(folder, "PodMonitor"):
        chosen = [pods for pods in pods_of(folder) if selects(monitor["spec"]["selector"], pods.labels)]
        ports = {port["name"] for pods in chosen for each in pods.containers for port in each.get("ports", [])}
        assert {endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]} <= ports
    for monitor in of_kind(folder, "ServiceMonitor"):
        services = [
            service
            for service in of_kind(folder, "Service")
            if selects(monitor["spec"]["selector"], service["metadata"]["labels"])
        ]
        ports = {port["name"] for service in services for port in service["spec"]["ports"]}
        assert {endpoint["port"] for endpoint in monitor["spec"]["endpoints"]} <= ports
    assert of_kind(folder, "PodMonitor", "ServiceMonitor")


def test_keda_scales_a_workload_that_is_there_by_the_queue_of_the_settings() -> None:
    folder = "overlays/production"
    (scaled,) = of_kind(folder, "ScaledObject")
    assert [pods.owner["kind"] for pods in pods_of(folder) if pods.owner["metadata"]["name"] == target(scaled)] == [
        "Deployment"
    ]
    settings = settings_of(folder)
    lists = {trigger["metadata"]["listName"] for trigger in scaled["spec"]["triggers"]}
    assert settings["RENDER_QUEUE"] in lists
    known = {each["metadata"]["name"] for each in of_kind(folder, "TriggerAuthentication")}
    named = {t["authenticationRef"]["name"] for t in scaled["spec"]["triggers"] if "authenticationRef" in t}
    assert named <= known


def target(scaled: dict[str, Any]) -> str:
    """The name of what a ScaledObject scales."""
    return str(scaled["spec"]["scaleTargetRef"]["name"])


def test_only_the_autoscaler_sets_the_replicas_of_what_it_scales() -> None:
    for overlay in OVERLAYS:
        scaled = {target(each) for each in of_kind(f"overlays/{overlay}", "ScaledObject")}
        for deployment in of_kind(f"overlays/{overlay}", "Deployment"):
            assert ("replicas" in deployment["spec"]) is (deployment["metadata"]["name"] not in scaled)


@pytest.mark.parametrize("folder", FOLDERS)
def test_references_lead_somewhere(folder: str) -> None:
    accounts = {each["metadata"]["name"] for each in of_kind("overlays/cpu", "ServiceAccount")}
    for pods in pods_of(folder):
        assert folder == "overlays/podman" or pods.spec["serviceAccountName"] in accounts
        claims = {claim["metadata"]["name"] for claim in pods.owner["spec"].get("volumeClaimTemplates", [])}
        volumes = {volume["name"] for volume in pods.spec.get("volumes", [])} | claims
        mounted = {mount["name"] for container in pods.containers for mount in container.get("volumeMounts", [])}
        assert mounted == volumes, f"{pods.name}: volumes that are not there, or that nothing mounts"
        for container in pods.containers:
            environment = environment_of(folder, container)  # raises where a ConfigMap or a Secret's key is not there
            words = [*container.get("command", []), *container.get("args", [])]
            named = {name for word in words for name in re.findall(r"\$\(([A-Za-z_]+)\)", word)}
            assert named <= set(environment), f"{pods.name}: {named - set(environment)} in the arguments"


@pytest.mark.parametrize("folder", CLUSTER_FOLDERS)
def test_no_pod_gets_a_token_or_the_variables_of_services(folder: str) -> None:
    for account in of_kind(folder, "ServiceAccount"):
        assert account["automountServiceAccountToken"] is False
    for pods in pods_of(folder):
        assert pods.spec["automountServiceAccountToken"] is False
        assert pods.spec["enableServiceLinks"] is False  # a Service `render-keep` would set RENDER_KEEP_PORT


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_image_has_a_tag_or_a_digest_and_none_is_latest(folder: str) -> None:
    for pods in pods_of(folder):
        for container in pods.containers:
            found = IMAGE.fullmatch(container["image"])
            assert found, container["image"]
            assert found["tag"] or found["digest"], f"{container['image']} means :latest"
            assert found["tag"] != ":latest"
            assert folder != "overlays/production" or found["digest"], f"{container['image']} has no digest"


def test_one_address_a_registry_is_all_that_is_to_be_edited() -> None:
    for folder in (*(f"overlays/{overlay}" for overlay in CLUSTER_OVERLAYS), *JOBS):
        images = {container["image"] for pods in pods_of(folder) for container in pods.containers}
        ours = {image for image in images if "/batch-renderer-" in image}
        assert {image.partition("/")[0] for image in ours} == {"registry.example.com"}
        assert {image.partition(":")[0] for image in images - ours} <= {"docker.io/library/redis"}
