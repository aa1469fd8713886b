"""Real containers for the tests: podman with a storage and a configuration of its own, in build/deploy.

Nothing of the machine's own podman is seen or changed. Whatever a test starts has a name with the session's random
suffix, and is removed at the end; images stay, so that the next session finds their layers.
"""

from __future__ import annotations

import base64
import fcntl
import http.client
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.deploy.tools import missing
from tools import ROOT

FOLDER = ROOT / "build" / "deploy"
PROGRAMS = ("podman", "buildah", "runc", "conmon", "netavark", "aardvark-dns", "mmdebstrap")
PACKAGES = (
    "buildah podman runc conmon netavark aardvark-dns iptables catatonit mmdebstrap golang-github-containers-common"
)
# Not every machine lets a container raise its limits, crun refuses some machines' control groups, and there may be no
# systemd.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
helper_binaries_dir = ["/usr/lib/podman", "/usr/libexec/podman", "/usr/local/libexec/podman"]
[network]
network_backend = "netavark"
network_config_dir = "{folder}/networks"
"""
# Options of `podman run`: as a pod of ours runs, nothing can be written but /cache, and there are no capabilities.
HARDENED = ("--read-only", "--read-only-tmpfs=false", "--cap-drop", "all", "--security-opt", "no-new-privileges",
            "--tmpfs", "/cache:mode=1777")  # fmt: skip
STORAGE_CONF = """\
[storage]
driver = "overlay"
graphroot = "{folder}/storage"
runroot = "{folder}/run"
"""


class ContainerFailed(AssertionError):
    """A command of podman or buildah failed; the text holds the command and what it said."""


def lacking() -> str | None:
    """What this machine lacks for containers, as a sentence; None where it lacks nothing."""
    absent = [name for name in PROGRAMS if not _found(name)]
    if absent:
        return f"no containers here ({', '.join(absent)} missing): as root, apt-get install {PACKAGES}"
    if os.geteuid() != 0:
        return "no containers here: the tests use podman as root, for its network and for mmdebstrap"
    return None


def require_containers() -> None:
    """Skip at a desk that cannot run containers; fail in CI."""
    if sentence := lacking():
        missing(sentence)


def _found(program: str) -> bool:
    helpers = ("/usr/lib/podman", "/usr/libexec/podman")
    return shutil.which(program, path=os.pathsep.join((os.environ.get("PATH", ""), *helpers))) is not None


class Containers:
    """podman and buildah for one session. As a context manager it removes what the session started."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.folder = folder
        self.suffix = secrets.token_hex(3)
        self.network = f"render-{self.suffix}"
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in (("containers.conf", CONTAINERS_CONF), ("storage.conf", STORAGE_CONF)):
            (folder / name).write_text(text.format(folder=folder))
        self.environment = os.environ | {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }

    def __enter__(self) -> Containers:
        self._lock = (self.folder / "lock").open("w")
        fcntl.flock(self._lock, fcntl.LOCK_EX)  # two sessions of one checkout would remove each other's pods
        self.remove_all()  # what a session left that was killed
        self.podman("network", "create", self.network)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.remove_all()
        self._lock.close()

    def podman(self, *arguments: str | Path, text: str | None = None, seconds: float = 600, check: bool = True) -> str:
        """Run podman; returns its stdout, without the last newline.

        Raises:
            ContainerFailed: it failed, unless `check` is false.
        """
        return self.command("podman", *arguments, text=text, seconds=seconds, check=check)

    def command(self, *words: str | Path, text: str | None = None, seconds: float = 600, check: bool = True) -> str:
        """Run a program with this session's storage; see `podman`."""
        done = subprocess.run(
            [str(word) for word in words],
            env=self.environment,
            input=text,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            check=False,
        )
        if check and done.returncode:
            shown = " ".join(str(word) for word in words)
            raise ContainerFailed(
                f"`{shown}` ended with {done.returncode}:\n{done.stdout[-2000:]}{done.stderr[-4000:]}"
            )
        return done.stdout.rstrip("\n")

    def run(self, image: str, *command: str, name: str, options: Sequence[str] = ()) -> Container:
        """Start a container in the session's network, under `name` for the other containers."""
        full = f"{name}-{self.suffix}"
        self.podman("run", "--detach", "--name", full, "--network", f"{self.network}:alias={name}", *options, image,
                    *command)  # fmt: skip
        return Container(self, full)

    def once(self, image: str, *command: str, options: Sequence[str] = (), seconds: float = 600) -> str:
        """Run a container to its end in the session's network; returns its stdout."""
        name = f"once-{secrets.token_hex(3)}-{self.suffix}"
        return self.podman("run", "--rm", "--name", name, "--network", self.network, *options, image, *command,
                           seconds=seconds)  # fmt: skip

    def secret(self, name: str, values: dict[str, str]) -> None:
        """Make a secret that `podman kube play` finds under a Secret's name: JSON, with the values in base64."""
        encoded = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
        self.podman("secret", "create", name, "-", text=json.dumps(encoded))

    def inspect(self, kind: str, name: str) -> dict[str, Any]:
        """What `podman KIND inspect` says of one thing."""
        found: list[dict[str, Any]] = json.loads(self.podman(kind, "inspect", name))
        return found[0]

    def is_healthy(self, name: str) -> bool:
        """Whether a container's health check succeeds now."""
        try:
            self.podman("healthcheck", "run", name)
        except ContainerFailed:
            return False
        return True

    def remove_containers(self) -> None:
        """Remove what runs and what has run, so that the next tests may use the names again.

        By SIGKILL: waiting until workers, Redis and the store have stopped would cost seconds and test nothing.
        """
        self.podman("pod", "rm", "--all", "--force", "--time", "0", check=False)
        self.podman("rm", "--all", "--force", "--volumes", "--time", "0", check=False)

    def remove_all(self) -> None:
        """Remove containers, pods, volumes, secrets and networks of this storage: nobody else uses it."""
        self.remove_containers()
        self.podman("volume", "rm", "--all", "--force", check=False)
        for name in self.podman("secret", "ls", "--format", "{{.Name}}", check=False).split():
            self.podman("secret", "rm", name, check=False)
        for name in self.podman("network", "ls", "--format", "{{.Name}}", check=False).split():
            if name != "podman":
                self.podman("network", "rm", "--force", name, check=False)


def flags(name: str, values: Mapping[str, str]) -> tuple[str, ...]:
    """An option for each pair: `--env NAME=value`, `--build-arg NAME=value`."""
    return tuple(word for pair in values.items() for word in (name, "=".join(pair)))


def get(host: str, port: int, path: str) -> tuple[int, bytes]:
    """A GET: status and body; 0 where nothing answers."""
    connection = http.client.HTTPConnection(host, port, timeout=5)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except OSError:
        return 0, b""
    finally:
        connection.close()


class Container:
    """One container, by its name."""

    def __init__(self, containers: Containers, name: str) -> None:
        self._containers = containers
        self.name = name

    @property
    def state(self) -> dict[str, Any]:
        """Its state: Status, Running, ExitCode, Pid, ..."""
        state: dict[str, Any] = self._containers.inspect("container", self.name)["State"]
        return state

    @property
    def running(self) -> bool:
        """Whether it runs."""
        return bool(self.state["Running"])

    @property
    def restarts(self) -> int:
        """How often podman has started it again."""
        return int(self._containers.inspect("container", self.name)["RestartCount"])

    @property
    def address(self) -> str:
        """Its address in its only network, which this machine reaches too."""
        (network,) = self._containers.inspect("container", self.name)["NetworkSettings"]["Networks"].values()
        return str(network["IPAddress"])

    def exec(self, *command: str, check: bool = True, text: str | None = None) -> str:
        """Run a command in it; returns its stdout."""
        return self._containers.podman("exec", *(["-i"] if text else []), self.name, *command, check=check, text=text)

    def logs(self) -> str:
        """What it has printed, stdout and stderr together."""
        return self._containers.command("sh", "-c", 'podman logs "$1" 2>&1', "logs", self.name, check=False)

    def wait(self, *, seconds: float = 600) -> None:
        """Wait until it ends by itself, with exit code 0."""
        code = self._containers.podman("wait", self.name, seconds=seconds)
        assert code == "0", f"{self.name} ended with {code}:\n{self.logs()[-3000:]}"

    def stop(self, *, seconds: int) -> int:
        """SIGTERM, and SIGKILL after `seconds`; returns the exit code."""
        self._containers.podman("stop", "--time", str(seconds), self.name, seconds=seconds + 60)
        return int(self.state["ExitCode"])

    def kill(self) -> None:
        """SIGKILL."""
        self._containers.podman("kill", "--signal", "KILL", self.name)
