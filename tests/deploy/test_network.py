"""NetworkPolicies: everything is denied, and what is let through is what the pods need and nothing else."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.overlays import CLUSTER_OVERLAYS, FOLDERS, JOBS, Document, of_kind, pods_of, with_component
from tests.deploy.test_references import COMPONENT, selects

pytestmark = pytest.mark.deploy

PUBLIC = ("93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c")
PRIVATE = ("10.0.0.1", "172.31.255.254", "192.168.1.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "168.63.129.16",
           "192.0.0.192", "198.18.0.1", "240.0.0.1", "fd00:ec2::254", "fe80::1", "fec0::1", "64:ff9b:1::1",
           "::1")  # fmt: skip


def policies_for(labels: dict[str, str], folder: str | Path, direction: str) -> list[Document]:
    """The policies that hold for a pod with these labels."""
    every = (policy for policy in of_kind(folder, "NetworkPolicy") if direction in policy["spec"]["policyTypes"])
    return [policy for policy in every if selects(policy["spec"]["podSelector"], labels)]


def reaches(labels: dict[str, str], address: str, *, port: int, folder: str | Path) -> bool:
    """Whether a pod may open a TCP connection to an address outside the cluster."""
    policies = policies_for(labels, folder, "Egress")
    assert policies, "no policy holds for this pod: it reaches everything"
    rules = [rule for policy in policies for rule in policy["spec"].get("egress", [])]
    return any(_has_port(rule, port) and _has_address(rule, address) for rule in rules)


def _has_port(rule: dict[str, Any], port: int) -> bool:
    return any(each["port"] == port and each["protocol"] == "TCP" for each in rule["ports"])


def _has_address(rule: dict[str, Any], address: str) -> bool:
    if "to" not in rule:
        return True
    wanted = ipaddress.ip_address(address)
    blocks = [peer["ipBlock"] for peer in rule["to"] if "ipBlock" in peer]
    return any(
        wanted in ipaddress.ip_network(block["cidr"])
        and not any(wanted in ipaddress.ip_network(gap) for gap in block.get("except", []))
        for block in blocks
    )


def labels_of(component: str) -> dict[str, str]:
    """The labels of a component's pods, from the overlay or Job that has them."""
    every = (pods.labels for folder in (*FOLDERS, *JOBS) for pods in pods_of(folder))
    return next(labels for labels in every if labels[COMPONENT] == component)


@pytest.mark.parametrize("overlay", CLUSTER_OVERLAYS)
def test_every_pod_is_denied_both_directions_by_default(overlay: str) -> None:
    folder = f"overlays/{overlay}"
    (deny,) = [policy for policy in of_kind(folder, "NetworkPolicy") if policy["metadata"]["name"].endswith("deny")]
    assert set(deny["spec"]) == {"podSelector", "policyTypes"}
    assert set(deny["spec"]["policyTypes"]) == {"Ingress", "Egress"}
    for component in ("worker", "keep", "redis", "build", "submit"):
        assert selects(deny["spec"]["podSelector"], labels_of(component))


def test_every_policy_chooses_pods_that_exist() -> None:
    every = [labels_of(component) for component in ("worker", "keep", "redis", "build", "submit")]
    for overlay in CLUSTER_OVERLAYS:
        for policy in of_kind(f"overlays/{overlay}", "NetworkPolicy"):
            assert any(selects(policy["spec"]["podSelector"], labels) for labels in every), policy["metadata"]["name"]


@pytest.mark.parametrize("address", PUBLIC)
def test_pods_reach_what_they_need(address: str) -> None:
    needed = {"worker": {80, 443, 6379}, "keep": {443, 6379}, "submit": {443, 6379}, "build": {443}, "redis": set()}
    found = {component: {port for port in (22, 25, 53, 80, 443, 2379, 6379, 6443, 9000, 10250)
                         if reaches(labels_of(component), address, port=port, folder="overlays/dev")}
             for component in needed}  # fmt: skip
    assert found == needed


@pytest.mark.parametrize("address", PRIVATE)
@pytest.mark.parametrize("component", ["worker", "keep", "build", "submit"])
def test_no_pod_reaches_private_addresses_but_redis(component: str, address: str) -> None:
    """Not the cloud's metadata service, not the API server, not other pods: a job may name any URL."""
    for port in (80, 443, 6443, 9000, 10250):
        assert not reaches(labels_of(component), address, port=port, folder="overlays/production")


def test_name_servers_of_the_cluster_are_reached() -> None:
    (dns,) = [
        policy for policy in of_kind("overlays/gpu", "NetworkPolicy") if policy["metadata"]["name"].endswith("dns")
    ]
    (rule,) = dns["spec"]["egress"]
    assert {(port["port"], port["protocol"]) for port in rule["ports"]} == {(53, "UDP"), (53, "TCP")}
    assert rule["to"][0]["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}


@pytest.mark.parametrize("overlay", CLUSTER_OVERLAYS)
def test_prometheus_gets_in_by_the_ports_that_are_served_and_nobody_else(overlay: str) -> None:
    folder = f"overlays/{overlay}"
    for pods in pods_of(folder):
        served = {port["containerPort"] for container in pods.containers for port in container.get("ports", [])}
        allowed: dict[int, list[Document]] = {}
        for policy in policies_for(pods.labels, folder, "Ingress"):
            for rule in policy["spec"].get("ingress", []):
                assert rule["from"]
                allowed |= {port["port"]: rule["from"] for port in rule["ports"]}
        assert served <= set(allowed), f"{pods.name}: nobody may ask port {served - set(allowed)}"
        if pods.labels[COMPONENT] in ("worker", "keep"):
            senders = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
            assert all(allowed[port] == senders for port in served)


def test_private_storage_opens_the_way_to_a_private_bucket_alone(tmp_path: Path) -> None:
    folder = with_component(tmp_path / "overlay", "private-storage", "cpu")
    for component in ("worker", "keep", "submit", "build"):
        labels = labels_of(component)
        assert reaches(labels, "10.1.2.3", port=9000, folder=folder)
        assert reaches(labels, "10.1.2.3", port=443, folder=folder)
        assert not reaches(labels, "10.1.2.3", port=6443, folder=folder)
        assert not reaches(labels, "169.254.169.254", port=80, folder=folder)
