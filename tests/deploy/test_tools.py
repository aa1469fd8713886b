"""A tool that is missing skips a test at a desk and fails it in CI, with a sentence that says what brings it."""

from __future__ import annotations

import platform
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from _pytest.outcomes import Failed, Skipped

from tests.deploy import tools

pytestmark = pytest.mark.deploy


@pytest.fixture
def no_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No package index, no caches, and an empty folder of tools."""
    monkeypatch.setattr(tools, "TOOLS", tmp_path / "tools")
    monkeypatch.setattr(tools, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)


def nothing(_: zipfile.ZipFile) -> bytes:
    return b""


@pytest.mark.parametrize("ci", [False, True])
def test_what_no_index_has_is_skipped_at_a_desk_and_fails_in_ci(
    ci: bool, no_index: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CI", "1" if ci else "")
    for find in (lambda: tools.installed(tools.VALIDATE), lambda: tools._binary("hadolint", tools.HADOLINT, nothing)):
        with pytest.raises(Failed if ci else Skipped, match=r"is needed from a package index \(`pip .*==.*`\)"):
            find()
    left = sorted(path.name for path in tools.TOOLS.rglob("*") if path.is_file())
    assert left == []  # a half would be taken for a whole the next time


def test_a_download_that_fails_is_tried_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tools, "PAUSE_SECONDS", 0.0)
    monkeypatch.setenv("CI", "1")
    tools.download("sh", "-c", "test -e here || { touch here; exit 1; }", what="it", folder=tmp_path)
    with pytest.raises(Failed, match=r"it is needed: no answer within 0\.2 s"):
        tools.download("sleep", "60", what="it is needed", seconds=0.2)


def test_another_kind_of_machine_is_told_what_to_do(no_index: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(Skipped, match="this is aarch64: name a kubectl in the variable KUBECTL"):
        tools._binary("kubectl", tools.KUBECTL, nothing)


def test_kubectl_and_hadolint_run() -> None:
    assert "v1.37." in tools.run(tools.kubectl(), "version", "--client")
    assert "Haskell Dockerfile Linter" in tools.run(tools.hadolint(), "--version")


def test_the_packages_of_the_tools_stay_out_of_the_environment() -> None:
    tools.kubernetes_validate()
    code = "import importlib.util, sys; sys.exit(importlib.util.find_spec('kubernetes_validate') is not None)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
