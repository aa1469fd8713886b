"""Pod Security 'restricted' admits every pod of deploy/kubernetes, and the function that says so is strict."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from tests.deploy.overlays import FOLDERS, pods_of
from tests.deploy.pod_security import violations

pytestmark = pytest.mark.deploy

CONTEXT = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
GOOD: dict[str, Any] = {
    "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
    "initContainers": [{"name": "first", "securityContext": copy.deepcopy(CONTEXT)}],
    "containers": [{"name": "main", "securityContext": copy.deepcopy(CONTEXT)}],
    "volumes": [{"name": "cache", "emptyDir": {}}],
}
# Where a good pod is changed, to what, and what is said of it.
BAD = [
    ("hostNetwork", True, "hostNetwork is set"),
    ("hostPID", True, "hostPID is set"),
    ("hostIPC", True, "hostIPC is set"),
    ("volumes.0.hostPath", {"path": "/"}, "volume cache is of the kind hostPath"),
    ("volumes.0.nfs", {"server": "a", "path": "/"}, "volume cache is of the kind nfs"),
    ("securityContext.runAsUser", 0, "runAsUser is 0"),
    ("securityContext.runAsNonRoot", False, "runAsNonRoot is false"),
    ("securityContext.runAsNonRoot", None, "main: runAsNonRoot is not true"),
    ("securityContext.seccompProfile", None, "first: no seccomp profile"),
    ("securityContext.seccompProfile.type", "Unconfined", "seccomp profile Unconfined"),
    ("securityContext.sysctls", [{"name": "kernel.msgmax", "value": "1"}], "sysctl kernel.msgmax"),
    ("securityContext.appArmorProfile", {"type": "Unconfined"}, "AppArmor profile Unconfined"),
    ("securityContext.seLinuxOptions", {"type": "spc_t"}, "seLinuxOptions"),
    ("securityContext.windowsOptions", {"hostProcess": True}, "hostProcess"),
    ("containers.0.securityContext", None, "main: allowPrivilegeEscalation is not false"),
    ("containers.0.securityContext.allowPrivilegeEscalation", True, "main: allowPrivilegeEscalation is not false"),
    ("containers.0.securityContext.privileged", True, "main: privileged"),
    ("containers.0.securityContext.runAsUser", 0, "main: runAsUser is 0"),
    ("containers.0.securityContext.runAsNonRoot", False, "main: runAsNonRoot is false"),
    ("containers.0.securityContext.procMount", "Unmasked", "main: procMount is Unmasked"),
    ("containers.0.securityContext.capabilities", {"drop": ["NET_RAW"]}, "main: capabilities are not dropped: ALL"),
    ("containers.0.securityContext.capabilities.add", ["SYS_PTRACE"], "main: capabilities are added: SYS_PTRACE"),
    ("initContainers.0.securityContext.capabilities", {}, "first: capabilities are not dropped: ALL"),
    ("containers.0.ports", [{"containerPort": 1, "hostPort": 80}], "main: hostPort 80"),
    ("containers.0.livenessProbe", {"httpGet": {"host": "a"}}, "main: a httpGet asks another host: a"),
    ("containers.0.lifecycle", {"preStop": {"tcpSocket": {"host": "a"}}}, "main: a tcpSocket asks another host: a"),
    ("ephemeralContainers", [{"name": "debug"}], "debug: allowPrivilegeEscalation is not false"),
]


def changed(place: str, value: object) -> dict[str, Any]:
    """GOOD with one field changed; None takes it away."""
    pod: Any = copy.deepcopy(GOOD)
    at = pod
    *parents, last = place.split(".")
    for part in parents:
        at = at[int(part)] if part.isdigit() else at[part]
    if value is None:
        del at[last]
    else:
        at[last] = value
    return dict(pod)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_pod_is_admitted(folder: str) -> None:
    found = {pods.name: violations(pods.spec, pods.owner["metadata"].get("annotations")) for pods in pods_of(folder)}
    assert found
    assert {name: problems for name, problems in found.items() if problems} == {}


def test_a_good_pod_is_admitted() -> None:
    assert violations(GOOD) == []


@pytest.mark.parametrize(("place", "value", "sentence"), BAD)
def test_a_pod_with_one_bad_field_is_not(place: str, value: object, sentence: str) -> None:
    assert sentence in violations(changed(place, value))


def test_an_annotation_that_takes_apparmor_away_is_found() -> None:
    name = "container.apparmor.security.beta.kubernetes.io/main"
    assert violations(GOOD, {name: "unconfined"}) == [f"{name}: unconfined"]
    assert violations(GOOD, {name: "runtime/default"}) == []
