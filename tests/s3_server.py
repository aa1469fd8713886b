"""A real S3 server for tests: the one that AWS_ENDPOINT_URL_S3 names, or else one that tools/s3server starts."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import pytest

SCRIPT = Path(__file__).resolve().parents[1] / "tools" / "s3server"
VARIABLES = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_DEFAULT_REGION")


@contextmanager
def s3_server(folder: Path) -> Iterator[dict[str, str]]:
    """The environment variables of a running server. Skips at a desk that cannot have one; fails in CI."""
    if os.environ.get("AWS_ENDPOINT_URL_S3"):
        yield {name: os.environ[name] for name in VARIABLES if name in os.environ}
        return
    if shutil.which("radosgw") is None and (os.geteuid() != 0 or shutil.which("apt-get") is None):
        _skip("no S3 server: name one with the AWS_* variables, or run as root so that tools/s3server can install one")
    folder, started = _start(folder)
    try:
        pairs = [pair for line in started.stdout.splitlines() for pair in line.removeprefix("export ").split()]
        yield {name: value for name, value in (pair.split("=", 1) for pair in pairs) if name in VARIABLES}
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=True, capture_output=True)


def _start(folder: Path) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Start a server; where it fails, once more in another folder. Returns the server's folder, and what it said."""
    for place in (folder, folder / "again"):
        started = subprocess.run([SCRIPT, "start", place], capture_output=True, text=True, check=False)
        if started.returncode == 0:
            return place, started
        subprocess.run([SCRIPT, "stop", place], check=False, capture_output=True)  # what the failed start has left
        if shutil.which("radosgw") is None:  # it cannot be installed, which was tried several times
            break
    _skip(f"tools/s3server did not start:\n{started.stderr[-2000:]}")


def _skip(reason: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
