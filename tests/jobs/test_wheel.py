"""An installed package holds what it reads at run time: the Lua scripts are not Python, so no import misses them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tools import ROOT

PACKAGES = ("jobs", "producer", "worker", "engines")
BUILD = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
LOAD = """
import redis
from jobs.ledger.ledger import Ledger
import jobs
ledger = Ledger(redis.Redis())
print(jobs.__file__, sorted(ledger._scripts.registered))
"""


def test_a_wheel_holds_every_script_and_they_load_from_it(tmp_path: Path) -> None:
    tree, wheels, installed = tmp_path / "tree", tmp_path / "wheels", tmp_path / "installed"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tree / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    subprocess.run([sys.executable, "-c", BUILD, wheels], cwd=tree, check=True, capture_output=True, timeout=120)
    (wheel,) = wheels.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(installed)
    data = {path.relative_to(tree) for package in PACKAGES for path in (tree / package).rglob("*") if path.is_file()}
    assert [str(path) for path in sorted(data) if not (installed / path).is_file()] == []
    command = [sys.executable, "-P", "-c", LOAD]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith(str(installed))
    scripts = [path.stem for path in (ROOT / "jobs" / "ledger" / "scripts").glob("*.lua") if path.stem != "prelude"]
    assert str(sorted(scripts)) in done.stdout
