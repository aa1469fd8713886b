"""Pod Security 'restricted' (kubernetes.io/docs/concepts/security/pod-security-standards), as a function.

It includes what 'baseline' forbids. Windows' fields are left out: nothing here runs there, and hostProcess is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

Fields = dict[str, Any]

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECCOMP = ("RuntimeDefault", "Localhost")
SYSCTLS = {
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ping_group_range",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.tcp_wmem",
}
SELINUX = (None, "", "container_t", "container_init_t", "container_kvm_t", "container_engine_t")
APPARMOR = (None, "RuntimeDefault", "Localhost")
APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"
GROUPS = ("initContainers", "containers", "ephemeralContainers")
HOOKS = ("startupProbe", "livenessProbe", "readinessProbe")


def violations(spec: Fields, annotations: Fields | None = None) -> list[str]:
    """Sentences that say where a pod breaks the rules; none for a pod that 'restricted' admits."""
    containers = [container for group in GROUPS for container in spec.get(group) or []]
    found = [*_of_pod(spec), *_of_annotations(annotations or {})]
    for container in containers:
        found += [f"{container.get('name')}: {problem}" for problem in _of_container(container, spec)]
    return found


def _of_pod(spec: Fields) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} is set"
    for volume in spec.get("volumes") or []:
        if kinds := set(volume) - {"name"} - VOLUMES:
            yield f"volume {volume['name']} is of the kind {', '.join(sorted(kinds))}"
    context = spec.get("securityContext") or {}
    for sysctl in context.get("sysctls") or []:
        if sysctl["name"] not in SYSCTLS:
            yield f"sysctl {sysctl['name']}"
    yield from _of_either(context)


def _of_annotations(annotations: Fields) -> Iterator[str]:
    for name, value in annotations.items():
        if name.startswith(APPARMOR_ANNOTATION) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"{name}: {value}"


def _of_container(container: Fields, spec: Fields) -> Iterator[str]:
    context, pods = container.get("securityContext") or {}, spec.get("securityContext") or {}
    yield from _of_either(context)
    if context.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if context.get("privileged"):
        yield "privileged"
    if context.get("runAsNonRoot", pods.get("runAsNonRoot")) is not True:
        yield "runAsNonRoot is not true"
    if (context.get("seccompProfile") or pods.get("seccompProfile") or {}).get("type") not in SECCOMP:
        yield "no seccomp profile"
    if context.get("procMount") not in (None, "Default"):
        yield f"procMount is {context['procMount']}"
    yield from _of_capabilities(context.get("capabilities") or {})
    yield from _of_hosts(container)


def _of_either(context: Fields) -> Iterator[str]:
    """Fields that a pod's and a container's security context share."""
    if context.get("runAsNonRoot") is False:
        yield "runAsNonRoot is false"
    if context.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if (context.get("seccompProfile") or {}).get("type") not in (None, *SECCOMP):
        yield f"seccomp profile {context['seccompProfile']['type']}"
    if (context.get("appArmorProfile") or {}).get("type") not in APPARMOR:
        yield f"AppArmor profile {context['appArmorProfile']['type']}"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type") not in SELINUX or selinux.get("user") or selinux.get("role"):
        yield "seLinuxOptions"
    if (context.get("windowsOptions") or {}).get("hostProcess"):
        yield "hostProcess"


def _of_capabilities(capabilities: Fields) -> Iterator[str]:
    if "ALL" not in (capabilities.get("drop") or []):
        yield "capabilities are not dropped: ALL"
    if more := set(capabilities.get("add") or []) - {"NET_BIND_SERVICE"}:
        yield f"capabilities are added: {', '.join(sorted(more))}"


def _of_hosts(container: Fields) -> Iterator[str]:
    for port in container.get("ports") or []:
        if port.get("hostPort"):
            yield f"hostPort {port['hostPort']}"
    lifecycle = container.get("lifecycle") or {}
    handlers = [container.get(hook) or {} for hook in HOOKS] + [handler or {} for handler in lifecycle.values()]
    for handler in handlers:
        for kind in ("httpGet", "tcpSocket"):
            if isinstance(handler, dict) and (handler.get(kind) or {}).get("host"):
                yield f"a {kind} asks another host: {handler[kind]['host']}"
