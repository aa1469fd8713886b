"""What deploy/kubernetes/README.md says can be done: its folders, names and its example of an own overlay."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.overlays import FOLDERS, KUBERNETES, of_kind, pods_of, pull_command, rendered, settings_of
from tools import ROOT

pytestmark = pytest.mark.deploy

README = KUBERNETES / "README.md"
PREFIX = "batch-renderer/deploy/kubernetes"


def test_folders_and_files_that_the_page_names_are_there() -> None:
    text = README.read_text()
    named = set(re.findall(r"`((?:settings|registry|base|overlays|components|jobs)(?:/[A-Za-z0-9*._-]+)*/?)`", text))
    assert len(named) > 10
    assert [name for name in sorted(named) if not list(KUBERNETES.glob(name.rstrip("/")))] == []
    applied = set(re.findall(r"kubectl apply -k deploy/kubernetes/(\S+)", text))
    assert applied <= set(FOLDERS)
    assert {link for link in re.findall(r"\]\(([^)#]+)", text) if not link.startswith("http")} <= {
        f"../../docs/{name}.md" for name in ("operations", "performance", "scaling")
    }


def test_workloads_that_the_page_names_are_there() -> None:
    there = {f"{each['kind'].lower()}/{each['metadata']['name']}" for folder in FOLDERS for each in rendered(folder)}
    named = set(re.findall(r"\b((?:deployment|service|job)/batch-renderer[a-z0-9-]*)", README.read_text()))
    assert named
    assert named - there == set()


def test_the_page_lists_every_overlay() -> None:
    text = README.read_text()
    assert [folder for folder in FOLDERS if folder.startswith("overlays/") and f"| `{folder}` |" not in text] == []


def test_an_overlay_of_ones_own_changes_what_it_says(tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    (folder / "kustomization.yaml").write_text(block.replace(PREFIX, os.path.relpath(KUBERNETES, folder)))
    settings = settings_of(folder)
    assert settings["ENGINE_DIGESTS"] == "5ccee6ac0d41 91be02c47f3d"
    assert [value for value in settings.values() if "my-bucket" in value] == []
    assert {each["metadata"].get("namespace") for each in rendered(folder)} == {"render"}
    assert [each["spec"]["maxReplicaCount"] for each in of_kind(folder, "ScaledObject")] == [12]
    images = {container["image"] for pods in pods_of(folder) for container in pods.containers}
    assert images == {"registry.mine/worker@sha256:...", "registry.mine/producer@sha256:..."}
    assert "batch-renderer-private-storage" in {each["metadata"]["name"] for each in of_kind(folder, "NetworkPolicy")}


def test_what_containers_run_are_command_lines_of_ours(tmp_path: Path) -> None:
    """A misspelt option would show in a cluster only."""
    commands = {shlex.join(words) for folder in FOLDERS for words in command_lines(folder, tmp_path)}
    assert {command.partition(" --")[0].partition(" s3:")[0] for command in commands} >= {
        "engines build", "engines verify", "engines push /sets/new", "engines pull", "producer keep", "producer submit",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "tests.command_lines"], input=json.dumps(sorted(commands)),
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {command: problem for command, problem in json.loads(done.stdout).items() if problem} == {}


def command_lines(folder: str, scratch: Path) -> list[list[str]]:
    """The commands of our containers, with the entrypoint of the producer's image. The worker's is the image's own."""
    found = []
    for pods in pods_of(folder):
        for container in pods.containers:
            words = [*container.get("command", []), *container.get("args", [])]
            if words[:1] == ["sh"] and container["name"] == "pull":
                variables = {"ENGINE_SETS": "s3://sets", "ENGINE_DIGESTS": "abcd1234"}
                words = pull_command(container, scratch, variables)
            elif "batch-renderer-producer" in container["image"]:
                words = ["producer", *words]
            if words[:1] in (["engines"], ["producer"]):
                found.append([word.replace("$(ENGINE_SETS)", settings_of(folder)["ENGINE_SETS"]) for word in words])
    return found
