"""The base install in a bare environment: the producer, without numpy, OpenCV, torch and Celery.

It is built as a wheel and installed from the package index, so what a wheel leaves out is missed here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engines.stored import toy_set
from tests.jobs.test_wheel import BUILD
from tools import ROOT

PACKAGES = ("jobs", "producer", "worker", "engines")
ABSENT = ("numpy", "cv2", "torch", "celery", "kombu", "onnxruntime")
CSV = "image,prompt\na.png,a house\nb.png,a tree\n"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the base install. Skips at a desk without a package index; fails in CI."""
    folder = tmp_path_factory.mktemp("base-install")
    tree, environment = folder / "tree", folder / "environment"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, tree / name)
    subprocess.run([sys.executable, "-c", BUILD, folder], cwd=tree, check=True, capture_output=True, timeout=300)
    (wheel,) = folder.glob("*.whl")
    # Without a pip of its own: unpacking that takes as long as unpacking all that is tested here.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(environment / "bin" / "python"), "install", "--quiet"]
    command = [*pip, "--no-compile", "--retries", "1", str(wheel)]
    done = subprocess.run(command, env=plain(), capture_output=True, text=True, check=False)
    if done.returncode:
        _skip(f"the base install needs a package index:\n{done.stderr[-2000:]}")
    return environment


def _skip(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def plain() -> dict[str, str]:
    """The environment without what would lead Python back to this tree."""
    left_out = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")  # the last for time: each start compiles anew
    return {name: value for name, value in os.environ.items() if name not in left_out}


def test_no_heavy_package_is_installed(environment: Path) -> None:
    code = f"import importlib.util as u; print([name for name in {ABSENT!r} if u.find_spec(name)])"
    done = subprocess.run([environment / "bin" / "python", "-c", code], env=plain(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_templates_scripts_and_kernels_are_in_the_wheel(environment: Path) -> None:
    installed = next((environment / "lib").glob("python*/site-packages"))
    data = {
        path.relative_to(ROOT)
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert {".j2", ".cu"} <= {path.suffix for path in data}
    assert sorted(path for path in data if not (installed / path).is_file()) == []
    modules = {path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sorted(path for path in modules if not (installed / path).is_file()) == []


def test_the_producer_works_from_another_folder(environment: Path, redis_url: str, tmp_path: Path) -> None:
    settings = {"RENDER_REDIS_URL": redis_url, "RENDER_OUTPUT_URI": str(tmp_path / "renders")}

    def producer(*arguments: str) -> str:
        command = [str(environment / "bin" / "producer"), *arguments]
        done = subprocess.run(
            command, cwd=tmp_path, env=plain() | settings, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    (tmp_path / "jobs.csv").write_text(CSV)
    assert "submit" in producer("--help")
    assert json.loads(producer("submit", "jobs.csv", "--dry-run"))["rows"] == 2
    assert json.loads(producer("submit", "jobs.csv", "--batch", "b"))["enqueued"] == 2
    assert json.loads(producer("status", "b", "--json"))["counts"]["queued"] == 2
    producer("gallery", "b", "--out", "gallery")
    assert (tmp_path / "gallery" / "index.html").read_text().startswith("<!doctype html>")


def test_sets_are_pushed_and_listed_without_torch(environment: Path, tmp_path: Path) -> None:
    def engines(*arguments: object) -> subprocess.CompletedProcess[str]:
        command = [str(environment / "bin" / "engines"), *map(str, arguments)]
        return subprocess.run(command, env=plain(), capture_output=True, text=True, timeout=120, check=False)

    folder, root = toy_set(tmp_path / "set"), tmp_path / "root"
    assert engines("push", folder, root).returncode == 0
    (listed,) = json.loads(engines("list", root).stdout)["sets"]
    assert listed["why_not"].startswith("the set needs the package onnxruntime (")
    refused = engines("pull", root, "--into", tmp_path / "sets")
    assert refused.returncode == 8
    assert "which is not installed" in refused.stderr


def test_an_export_without_its_packages_names_the_extra_that_brings_them(environment: Path, tmp_path: Path) -> None:
    engines, out = str(environment / "bin" / "engines"), str(tmp_path / "onnx")
    command = [engines, "export", "--model", str(tmp_path), "--out", out]
    done = subprocess.run(command, env=plain(), capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (4, "")
    assert "exporting needs torch, diffusers, transformers, onnx, onnxruntime, which are not installed" in done.stderr
    assert "pip install 'batch-renderer[engines]'" in done.stderr
    assert list(tmp_path.iterdir()) == []
