"""Which of our modules imports which, and where they import each other in a circle.

    from tools.import_graph import circles, import_graph
    circles(import_graph(["jobs", "producer"], root=ROOT))

Every import counts: at module level, inside functions, under TYPE_CHECKING, and `import_module("a.name")`. An import
inside a function runs, but it hides a circle instead of breaking it. The files are parsed, never imported.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator, Mapping
from functools import cache
from pathlib import Path

from tools import ROOT

Graph = Mapping[str, frozenset[str]]  # module -> the modules that it imports


def python_files(package: str, *, root: Path = ROOT) -> list[Path]:
    """The package's files, sorted.

    Raises:
        FileNotFoundError: there is no such package, or it is empty. A check of nothing must not pass.
    """
    files = sorted((root / package).rglob("*.py"))
    if not files:
        raise FileNotFoundError(f"{root / package} holds no Python file")
    return files


def module_name(path: Path, *, root: Path = ROOT) -> str:
    """`a/b.py` and `a/b/__init__.py` are both `a.b`."""
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def imports(path: Path) -> tuple[tuple[str, str], ...]:
    """(module, name) of every import of a file; the name is "" where the module itself is imported.

    Raises:
        ValueError: the file has a relative import.
    """
    return tuple(_imports(path))


def _imports(path: Path) -> Iterator[tuple[str, str]]:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text, str(path))
    for node in ast.walk(tree) if "import_module" in text else _statements(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                raise ValueError(f"{path}:{node.lineno}: imports are absolute here")
            yield from ((node.module or "", alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and _last_name(node.func) == "import_module":
            yield from ((a.value, "") for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def _statements(tree: ast.Module) -> Iterator[ast.AST]:
    """All of them, also those within others. Expressions, which are most of a tree, are passed over."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop(0)
        yield node
        for name in ("body", "handlers", "cases", "orelse", "finalbody"):
            inner = getattr(node, name, None)
            if isinstance(inner, list):  # `body` of a lambda is an expression
                waiting += inner


def _last_name(called: ast.expr) -> str:
    """`c` of `a.b.c` and of `c`; unparsing every call would take most of the time."""
    if isinstance(called, ast.Attribute):
        return called.attr
    return called.id if isinstance(called, ast.Name) else ""


def imported_names(path: Path) -> set[str]:
    """Every name that a file imports; `from a.b import c` gives `a.b` and `a.b.c`, of which either may be a module."""
    pairs = imports(path)
    return {module for module, _ in pairs} | {f"{module}.{name}" for module, name in pairs if name}


def import_graph(packages: Collection[str], *, root: Path = ROOT) -> Graph:
    """The imports among the modules of these packages; others are left out.

    Raises:
        FileNotFoundError: see `python_files`.
    """
    files = {module_name(path, root=root): path for package in packages for path in python_files(package, root=root)}
    return {module: frozenset(_known(path, files)) for module, path in files.items()}


def _known(path: Path, modules: Collection[str]) -> Iterator[str]:
    """`from a.b import c` is an arrow to the module `a.b.c` where that is one, and else to `a.b`."""
    for module, name in imports(path):
        if f"{module}.{name}" in modules:
            yield f"{module}.{name}"
        elif module in modules:
            yield module


def reachable(graph: Graph, start: str) -> set[str]:
    """All modules that `start` imports, directly or through others. `start` is among them only in a circle."""
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in reached:
            reached.add(module)
            waiting += graph[module]
    return reached


def circles(graph: Graph) -> list[list[str]]:
    """The groups of modules that all reach each other, largest first; each sorted by name."""
    reach = {module: reachable(graph, module) for module in graph}
    groups = {
        tuple(sorted(other for other in reach[module] if module in reach[other]))
        for module in graph
        if module in reach[module]
    }
    return sorted((list(group) for group in groups), key=lambda group: (-len(group), group))
