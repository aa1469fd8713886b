"""The images that the tests use, built with buildah from this tree. Layers are kept between sessions.

No registry is needed: the base image is made of Debian's packages, and so is the one that stands for Redis, the S3
store and Prometheus.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.deploy.containers import ContainerFailed, Containers, flags
from tools import ROOT
from tools.progress import say

SUITE = "bookworm"
# usr-is-merged: usrmerge, which stands there otherwise, brings 50 MB of Perl.
BASE_PACKAGES = "ca-certificates,python3,python3-venv,usr-is-merged"
# Redis, Ceph's S3 gateway (for tools/s3server) and Prometheus.
SERVICE_PACKAGES = "ca-certificates,ceph-common,ceph-mon,ceph-osd,prometheus,python3,radosgw,redis-server"
SERVICE_FILES = ("tools/s3server", "tests/deploy/s3_service.sh", "tests/deploy/services.Dockerfile")
MERGED_USR = "--hook-dir=/usr/share/mmdebstrap/hooks/merged-usr"
BUILD_SECONDS = 2400
AGAIN_SECONDS = 300.0  # a build that fails later has not failed for want of a network

WORKER = "localhost/batch-renderer-worker:cpu"
BUILDER = "localhost/batch-renderer-worker:cpu-build"
PRODUCER = "localhost/batch-renderer-producer:0.1.0"


class Images:
    """Builds what is asked for, once a session."""

    def __init__(self, containers: Containers) -> None:
        self._containers = containers
        self._built: set[str] = set()

    def worker(self) -> str:
        """The worker's CPU image; returns its name."""
        return self._build(WORKER, "worker.Dockerfile", {"TORCH_INDEX": "pip"})

    def builder(self) -> str:
        """The worker's CPU image that can also run `engines build`."""
        return self._build(BUILDER, "worker.Dockerfile", {"TORCH_INDEX": "pip", "EXTRAS": "engines"})

    def producer(self) -> str:
        """The producer's image."""
        return self._build(PRODUCER, "producer.Dockerfile", {})

    def base(self) -> str:
        """Debian with Python: what a build from a registry names as BASE."""
        return self._debian("base", BASE_PACKAGES)

    def services(self) -> str:
        """Debian with the servers that ours need, and tools/s3server."""
        files = [(ROOT / file).read_text() for file in SERVICE_FILES]
        name = f"localhost/render-services:{_digest(SERVICE_PACKAGES, *files)}"
        if not self._exists(name):
            self._made(
                "buildah", "bud", "--format", "docker", "--isolation", "chroot", "--tag", name,
                "--build-arg", f"BASE={self._debian('services', SERVICE_PACKAGES)}",
                "--file", ROOT / "tests" / "deploy" / "services.Dockerfile",
                "--ignorefile", ROOT / "tests" / "deploy" / "services.dockerignore", ROOT,
            )  # fmt: skip
        return name

    def _debian(self, name: str, packages: str) -> str:
        """An image with these packages, made once for this list of them."""
        tag = f"localhost/render-debian-{name}:{SUITE}-{_digest(packages)}"
        if not self._exists(tag):
            say(f"image {tag}: mmdebstrap")
            archive = self._containers.folder / f"{name}.tar"
            unread = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("doc", "man", "locale")]
            self._made("mmdebstrap", "--variant=minbase", f"--include={packages}", MERGED_USR, *unread, SUITE, archive)
            self._containers.podman("import", archive, tag)
            archive.unlink()
        return tag

    def _build(self, name: str, dockerfile: str, arguments: dict[str, str]) -> str:
        if name in self._built:
            return name
        began = time.monotonic()
        say(f"image {name}")
        given = {"BASE": self.base(), "REVISION": _revision(), **arguments}
        self._made(
            "buildah", "bud", "--layers", "--format", "docker", "--isolation", "chroot", "--network", "host",
            *flags("--build-arg", given), *self._pip_configuration(),
            "--tag", name, "--file", ROOT / "deploy" / "docker" / dockerfile, ROOT,
        )  # fmt: skip
        say(f"image {name}: {time.monotonic() - began:.0f} s")
        self._built.add(name)
        return name

    def _made(self, *command: str | Path) -> None:
        """Run a build, and again where it fails early: each fetches packages, and buildah keeps its finished layers."""
        began = time.monotonic()
        try:
            self._containers.command(*command, seconds=BUILD_SECONDS)
        except ContainerFailed as failure:
            if time.monotonic() - began > AGAIN_SECONDS:
                raise
            say(f"{command[0]} is tried again: {failure}")
            self._containers.command(*command, seconds=BUILD_SECONDS)

    def _pip_configuration(self) -> list[str]:
        """This machine's settings of pip, for the build: an index, folders with wheels, a certificate."""
        listed = subprocess.run(
            [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
        )
        settings = dict(re.findall(r"^(?:global|:env:)\.([a-z-]+)='(.*)'$", listed.stdout, re.MULTILINE))
        if "PIP_CONSTRAINT" in os.environ:
            settings["constraint"] = os.environ["PIP_CONSTRAINT"]
        path = self._containers.folder / "pip.conf"
        path.write_text("[global]\n" + "".join(f"{name} = {value}\n" for name, value in settings.items()))
        words = {word.removeprefix("file://") for value in settings.values() for word in value.split()}
        places = {_top(Path(word)) for word in words if word.startswith("/") and Path(word).exists()}
        mounts = [f"{path}:/etc/pip.conf:ro", *(f"{place}:{place}:ro" for place in sorted(places))]
        return [word for mount in mounts for word in ("--volume", mount)]

    def _exists(self, name: str) -> bool:
        return bool(self._containers.podman("images", "--quiet", name))


def _top(path: Path) -> Path:
    """A package index refers to files beside its own folder: /opt/pypi for file:///opt/pypi/simple."""
    return path.parent if path.name == "simple" else path


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def _revision() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"
