"""Count what the code's shape is judged by: sizes, long functions, import circles, comparisons with a backend's name.

    python -m tools.figures             a table for people
    python -m tools.figures --json      one JSON line
    python -m tools.figures --root DIR jobs producer      another tree, other packages

A function's length is that of its lines from `def` to its end. Two kinds are exempt, as long as they only say what a
command takes: the parameters of a Typer command, and a function that builds an argparse parser.
"""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tools import ROOT
from tools.import_graph import circles, import_graph, python_files

PACKAGES = ("jobs", "producer", "worker", "engines", "benchmarks", "tools")
EVERYTHING = (*PACKAGES, "examples", "deploy")  # two folders of scripts, which are no packages
LONGEST = 60
LONG = 40
SMALL = 30
BACKENDS = Path("engines/backends")


@dataclass(frozen=True)
class Function:
    """A function or method, and how many lines it has."""

    where: str  # file:line name
    lines: int


@dataclass(frozen=True)
class PackageFigures:
    """What is counted in one package."""

    files: int
    lines: int
    over_60: tuple[Function, ...]
    over_40: tuple[Function, ...]  # those over 60 among them
    small_files: tuple[str, ...]  # under 30 lines, with their lines


@dataclass(frozen=True)
class Figures:
    """What is counted in all of them."""

    packages: dict[str, PackageFigures]
    circles: list[list[str]]
    backend_comparisons: list[str]  # outside engines/backends/


def figures(packages: Sequence[str] = PACKAGES, *, root: Path = ROOT) -> Figures:
    """Count everything.

    Raises:
        FileNotFoundError: one of the packages is missing or empty.
    """
    return Figures(
        packages={package: _package(python_files(package, root=root), root) for package in packages},
        circles=circles(import_graph(packages, root=root)),
        backend_comparisons=[
            line for package in packages for path in python_files(package, root=root) for line in _backends(path, root)
        ],
    )


def _package(files: Collection[Path], root: Path) -> PackageFigures:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    functions = sorted((f for path in files for f in functions_of(path, root=root)), key=lambda f: -f.lines)
    return PackageFigures(
        files=len(files),
        lines=sum(lines.values()),
        over_60=tuple(f for f in functions if f.lines > LONGEST),
        over_40=tuple(f for f in functions if f.lines > LONG),
        small_files=tuple(
            f"{path.relative_to(root)} ({n})"
            for path, n in lines.items()
            if n < SMALL and path.stem not in ("__init__", "__main__")
        ),
    )


def functions_of(path: Path, *, root: Path = ROOT) -> Iterator[Function]:
    """All functions of a file, inner ones too; those that build an argument parser are left out."""
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not _builds_a_parser(node):
            first = node.body[0].lineno if _is_a_typer_command(node) else node.lineno
            yield Function(
                f"{path.relative_to(root)}:{node.lineno} {node.name}", (node.end_lineno or first) - first + 1
            )


def _builds_a_parser(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    calls = [ast.unparse(node.func) for node in ast.walk(function) if isinstance(node, ast.Call)]
    return any(call.endswith("ArgumentParser") for call in calls)


def _is_a_typer_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    decorators = [ast.unparse(decorator) for decorator in function.decorator_list]
    return "typer." in ast.unparse(function.args) or any(".command(" in decorator for decorator in decorators)


def _backends(path: Path, root: Path) -> Iterator[str]:
    """Comparisons of something called `backend` with a name: `backend == "triton"`, `x.backend in ("torch", ...)`."""
    if path.relative_to(root).is_relative_to(BACKENDS):
        return
    for node in ast.walk(_parsed(path)):
        if isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            named = [_is_a_backend(side) for side in sides]
            # Two backends may be compared with each other, and one may be looked up in a registry.
            equality = isinstance(node.ops[0], ast.Eq | ast.NotEq) or isinstance(
                sides[1], ast.Tuple | ast.Set | ast.List
            )
            if any(named) and not all(named) and equality:
                yield f"{path.relative_to(root)}:{node.lineno} {ast.unparse(node)}"
        elif isinstance(node, ast.Match) and _is_a_backend(node.subject):
            yield f"{path.relative_to(root)}:{node.lineno} match {ast.unparse(node.subject)}"


def _is_a_backend(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] in ("backend", "backend_name")


def _parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def table(counted: Figures) -> str:
    """The figures as a table for people."""
    rows = [f"{'package':<12}{'files':>7}{'lines':>8}{'> 60':>6}{'> 40':>6}{'small files':>13}"]
    for name, one in counted.packages.items():
        numbers = (len(one.over_60), len(one.over_40), len(one.small_files))
        rows.append(f"{name:<12}{one.files:>7}{one.lines:>8}{numbers[0]:>6}{numbers[1]:>6}{numbers[2]:>13}")
    long = [f for one in counted.packages.values() for f in one.over_40]
    small = [name for one in counted.packages.values() for name in one.small_files]
    rows += _section(f"functions over {LONG} lines", [f"{f.lines:>4}  {f.where}" for f in long])
    rows += _section("import circles", [" <-> ".join(circle) for circle in counted.circles])
    rows += _section("comparisons with a backend's name outside engines/backends/", counted.backend_comparisons)
    rows += _section(f"files under {SMALL} lines", small)
    return "\n".join(rows)


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return ["", f"{title}: {len(lines)}", *(f"  {line}" for line in lines)]


def main() -> int:
    """Print the figures; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Sizes, long functions, import circles and comparisons with a backend's name.",
        epilog="example: python -m tools.figures --json | python -m json.tool",
    )
    parser.add_argument("packages", nargs="*", default=EVERYTHING, help=f"default: {' '.join(EVERYTHING)}")
    parser.add_argument("--root", type=Path, default=ROOT, help="the tree that holds them (default: this one)")
    parser.add_argument("--json", action="store_true", help="one JSON line instead of the table")
    options = parser.parse_args()
    try:
        counted = figures(options.packages, root=options.root.resolve())
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps({"figures": asdict(counted)}) if options.json else table(counted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
