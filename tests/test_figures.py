"""The code's shape: no long functions, no circles, no comparison with a backend's name outside its folder."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tools import ROOT
from tools.figures import EVERYTHING, PACKAGES, figures
from tools.import_graph import circles, import_graph, python_files

LONG_FUNCTIONS_ALLOWED = 5


def test_no_function_is_longer_than_60_lines_and_few_are_longer_than_40() -> None:
    packages = figures(PACKAGES).packages.values()
    assert [f for package in packages for f in package.over_60] == []
    long = [f for package in packages for f in package.over_40]
    assert len(long) <= LONG_FUNCTIONS_ALLOWED, long


def test_no_code_outside_the_backends_compares_with_the_name_of_one() -> None:
    assert figures(EVERYTHING).backend_comparisons == []


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"__init__": "", **files}.items():
        (folder / f"{name}.py").write_text(text)


def test_imports_in_functions_under_type_checking_and_by_name_count_too(tmp_path: Path) -> None:
    write(
        tmp_path / "p",
        a="def f():\n    from p import b\n",
        b="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.c import C\n",
        c="import importlib\nC = importlib.import_module('p.a')\n",
        d="from p.a import f\nimport json\n",
    )
    graph = import_graph(["p"], root=tmp_path)
    assert graph["p.a"] == {"p.b"}
    assert graph["p.b"] == {"p.c"}
    assert graph["p.d"] == {"p.a"}
    assert circles(graph) == [["p.a", "p.b", "p.c"]]


def test_a_package_that_is_gone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        python_files("nowhere", root=tmp_path)


def test_long_functions_are_counted_and_what_only_declares_a_command_is_not(tmp_path: Path) -> None:
    body = "".join(f"    x{n} = {n}\n" for n in range(60))
    declared = ",\n".join(f"    p{n}: Annotated[int, typer.Option()] = 1" for n in range(60))
    write(
        tmp_path / "p",
        long="def f():\n" + body,
        command=f"def main(\n{declared},\n):\n    pass\n",
        parser="def options():\n    parser = argparse.ArgumentParser()\n" + body,
    )
    package = figures(["p"], root=tmp_path).packages["p"]
    assert [f.where for f in package.over_60] == ["p/long.py:1 f"]
    assert [f.lines for f in package.over_40] == [61]


def test_comparisons_with_a_backends_name_are_found_outside_the_backends_folder(tmp_path: Path) -> None:
    text = (
        "def f(backend, m, other):\n"
        "    return backend == 'x' or m.backend in ('x', 'y') or m.backend != other.backend or backend in REGISTRY\n"
    )
    write(tmp_path / "engines", recipe=text)
    write(tmp_path / "engines" / "backends", torch=text)
    assert len(figures(["engines"], root=tmp_path).backend_comparisons) == 2


def test_the_command_prints_one_json_line() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tools.figures", "--json", "tools"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout)["figures"]["packages"]["tools"]["files"] > 1
