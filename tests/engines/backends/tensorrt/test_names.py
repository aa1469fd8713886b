"""Every name of TensorRT's API that our code uses exists: in the type stubs of the full `tensorrt`, which does not
install from PyPI, in `tensorrt_lean`, which runs plans, and in `tensorrt_rtx`.

The names are read from our source. OBJECTS says which object each expression is; an expression that takes its value
from one of them and is used as an object itself must be there, too.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from engines.backends.tensorrt import package, plan, runtime
from engines.manifest import LEAN_RUNTIMES
from tests.engines.required import required

MODULE = ""  # the package itself
# Source -> expression, or function:expression where it means something else elsewhere -> class in TensorRT's API.
OBJECTS: dict[ModuleType, dict[str, str]] = {
    plan: {
        "trt": MODULE,
        "builder": "Builder",
        "config": "IBuilderConfig",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "parser.get_error(i)": "ParserError",
        "ranges": "IOptimizationProfile",
        "_check_shape:tensor": "ITensor",
    },
    runtime: {
        "trt": MODULE,
        "self._trt": MODULE,
        "__init__:self._trt": MODULE,
        "open:self._runtime": "Runtime",
        "plan": "ICudaEngine",
        "context": "IExecutionContext",
        "self._context": "IExecutionContext",
        "config": "IRuntimeConfig",
    },
}
# Expressions of these names that are something else: function:expression.
OTHERS = {"open:context", "open:self._context", "__init__:context", "_context:self._context", "_context:context"}
# What only TensorRT for RTX has, behind a test for it.
ONLY_RTX = {
    ("IBuilderConfig", "num_compute_capabilities"),
    ("IBuilderConfig", "set_compute_capability"),
    (MODULE, "ComputeCapability"),
    ("ComputeCapability", "CURRENT"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"),
    ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"),
}
BUILDS = {"Builder", "IBuilderConfig", "BuilderFlag", "INetworkDefinition", "OnnxParser", "ParserError", "ITensor",
          "IOptimizationProfile", "NetworkDefinitionCreationFlag", "ComputeCapability"}  # fmt: skip


def attributes(source: ModuleType) -> Iterator[tuple[str, ast.Attribute]]:
    """Every attribute in the source, with the innermost function around it."""

    def visit(node: ast.AST, function: str) -> Iterator[tuple[str, ast.Attribute]]:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.Attribute):
            yield function, node
        for child in ast.iter_child_nodes(node):
            yield from visit(child, function)

    return visit(ast.parse(inspect.getsource(source)), "")


def class_of(source: ModuleType, function: str, expression: str) -> str | None:
    """The class of an expression in TensorRT's API; None where it is something else."""
    if f"{function}:{expression}" in OTHERS:
        return None
    objects = OBJECTS[source]
    found = objects.get(f"{function}:{expression}", objects.get(expression))
    for name, class_ in objects.items():
        if class_ == MODULE and expression.startswith(f"{name}."):
            return expression.removeprefix(f"{name}.")
    return found


@cache
def used() -> frozenset[tuple[str, str]]:
    """(class, name) of everything that is used."""
    found = set()
    for source in OBJECTS:
        for function, node in attributes(source):
            class_ = class_of(source, function, ast.unparse(node.value))
            if class_ is not None:
                found.add((class_, node.attr))
    return frozenset(found)


def missing(module: Any, names: frozenset[tuple[str, str]] | set[tuple[str, str]]) -> list[tuple[str, str]]:
    def has(class_: str, name: str) -> bool:
        place = module
        for part in class_.split(".") if class_ else ():
            place = getattr(place, part, None)
        return hasattr(place, name)

    return sorted(pair for pair in names if not has(*pair))


def test_the_names_are_found() -> None:
    for pair in (
        ("", "Builder"),
        ("BuilderFlag", "VERSION_COMPATIBLE"),
        ("BuilderFlag", "EXCLUDE_LEAN_RUNTIME"),
        ("ILogger.Severity", "INTERNAL_ERROR"),
        ("Runtime", "deserialize_cuda_engine"),
        ("ICudaEngine", "create_execution_context"),
        ("IExecutionContext", "execute_async_v3"),
        ("IRuntimeConfig", "set_runtime_cache"),
        ("ITensor", "shape"),
    ):
        assert pair in used()
    assert used() >= ONLY_RTX


def test_each_object_that_is_named_is_used() -> None:
    for source, objects in OBJECTS.items():
        seen = {(function, ast.unparse(node.value)) for function, node in attributes(source)}
        for key in objects:
            function, _, expression = key.rpartition(":")
            assert any(expression == each and function in ("", where) for where, each in seen), key


def test_what_comes_from_tensorrt_is_followed() -> None:
    """A value that a call on one of the objects gave, and whose attributes are used, is in OBJECTS itself."""
    for source in OBJECTS:
        bases = {(function, ast.unparse(node.value)) for function, node in attributes(source)}
        for function in ast.walk(ast.parse(inspect.getsource(source))):
            if not isinstance(function, ast.FunctionDef):
                continue
            for node in ast.walk(function):
                if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)):
                    continue
                called = node.value.func
                if not isinstance(called, ast.Attribute):
                    continue
                if class_of(source, function.name, ast.unparse(called.value)) is None:
                    continue
                for target in map(ast.unparse, node.targets):
                    known = class_of(source, function.name, target) is not None
                    assert known or (function.name, target) not in bases, f"{function.name}: {target}"


def test_the_full_tensorrt_has_them_by_its_type_stubs() -> None:
    marker = pytest.importorskip(
        "tensorrt_stubs", reason="no stubs here: pip install --no-deps tensorrt-stubs"
    ).__file__
    stubs = Stubs(Path(marker).parents[1] / "tensorrt_bindings" / "tensorrt.pyi")
    assert sorted(pair for pair in used() - ONLY_RTX if not stubs.has(*pair)) == []


def test_tensorrt_lean_has_those_that_run_plans() -> None:
    lean = required("tensorrt_lean")
    runs = {(class_, name) for class_, name in used() - ONLY_RTX if class_ not in BUILDS and name not in BUILDS}
    assert ("ICudaEngine", "get_tensor_mode") in runs
    assert missing(lean, runs) == []
    assert missing(lean, {("", "Builder")}), "it builds now: the split can go"


def test_tensorrt_for_rtx_has_all() -> None:
    assert missing(required("tensorrt_rtx"), used()) == []


def test_the_lean_runtime_has_one_name_everywhere() -> None:
    assert (package.LEAN,) == LEAN_RUNTIMES


class Stubs:
    """A .pyi file: its classes with what they and their bases define, and the names at its top."""

    def __init__(self, path: Path) -> None:
        # Arguments are left out: some signatures are no Python (one without a default after one with).
        tree = ast.parse(re.sub(r"(?m)^( *def \w+)\(.*$", r"\1(self):", path.read_text()))
        self._top = {name for node in tree.body for name in names_of(node)}
        self._classes: dict[str, ast.ClassDef] = {}
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                self._add(node, "")

    def _add(self, node: ast.ClassDef, before: str) -> None:
        self._classes[before + node.name] = node
        for child in node.body:
            if isinstance(child, ast.ClassDef):
                self._add(child, f"{before}{node.name}.")

    def has(self, class_: str, name: str) -> bool:
        if class_ == MODULE:
            return name in self._top
        node = self._classes.get(class_)
        if node is None:
            return False
        own = any(name in names_of(child) for child in node.body)
        return own or any(self.has(ast.unparse(base), name) for base in node.bases)


def names_of(node: ast.stmt) -> list[str]:
    """The names that a statement of a .pyi file defines."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    if isinstance(node, ast.AnnAssign):
        return [ast.unparse(node.target)]
    if isinstance(node, ast.Assign):
        return [ast.unparse(target) for target in node.targets]
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name for alias in node.names]
    return []


@pytest.mark.parametrize("class_", ["IRuntimeConfig", "IBuilderConfig"])
def test_a_name_that_does_not_exist_would_be_found(class_: str) -> None:
    trt = required("tensorrt_rtx")
    assert missing(trt, {(class_, "set_runtime_cash"), (class_, "__doc__")}) == [(class_, "set_runtime_cash")]
