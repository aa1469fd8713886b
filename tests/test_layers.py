"""The arrows of the layout: producer -> jobs <- worker -> engines, and what each layer may know."""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"jobs", "producer", "worker", "engines"}

# Package -> which of our packages it may import besides itself.
ARROWS = {"jobs": set[str](), "engines": set[str](), "producer": {"jobs"}, "worker": {"jobs", "engines"}}

# Package -> third-party packages that it must never import: they are heavy, or belong to another layer.
NEVER = {
    "jobs": {"torch", "celery", "kombu", "numpy", "cv2"},
    "producer": {"torch", "celery", "kombu", "numpy", "cv2", "onnxruntime", "tensorrt", "diffusers", "transformers"},
    "engines": {"celery", "kombu", "redis", "boto3"},
    "worker": {"boto3", "botocore"},
}

# The core of the worker knows neither the queue nor the storage. Of jobs/ it may know the message, the errors
# and how a URI may be shown.
CORE = [
    "render/scheduler",
    "render/loop",
    "render/request",
    "render/trajectory",
    "render/batch",
    "render/ddim",
    "render/denoiser",
    "render/encodings",
    "render/decoding",
    "image/canny",
    "image/decode",
    "image/png",
    "image/tokens",
    "prepare",
]
NOT_IN_CORE = {"celery", "kombu", "redis", "boto3", "botocore", "urllib3"}
CORE_JOBS = {"jobs.errors", "jobs.job", "jobs.uri"}

# These set variables that other libraries read; they take no setting of ours from there.
WRITE_FOR_LIBRARIES = {"engines/model/libraries.py", "engines/backends/triton/kernel_cache.py"}


def modules(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, at any depth of its code; `from a.b import c` gives `a.b` and `a.b.c`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute here"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(path)}


def offences(paths: Collection[Path], forbidden: Collection[str]) -> list[str]:
    return [f"{path.relative_to(ROOT)}: {name}" for path in paths for name in sorted(top_level(path) & set(forbidden))]


@pytest.mark.parametrize("package", sorted(ARROWS))
def test_a_package_imports_only_where_its_arrows_point(package: str) -> None:
    assert offences(modules(package), PACKAGES - {package} - ARROWS[package]) == []


@pytest.mark.parametrize("package", sorted(NEVER))
def test_a_package_leaves_out_what_belongs_to_another_layer(package: str) -> None:
    assert offences(modules(package), NEVER[package]) == []


@pytest.mark.parametrize("name", CORE)
def test_the_workers_core_knows_neither_queue_nor_storage(name: str) -> None:
    path = ROOT / "worker" / f"{name}.py"
    assert offences([path], NOT_IN_CORE) == []
    ours = {module for module in imports(path) if module.startswith("jobs.") and module.count(".") == 1}
    assert ours <= CORE_JOBS


@pytest.mark.parametrize("name", sorted(set(CORE) - {"render/denoiser"}))
def test_the_denoiser_is_the_only_door_to_the_engines(name: str) -> None:
    """engines.spec is data, without torch, that all may import."""
    path = ROOT / "worker" / f"{name}.py"
    ours = {module for module in imports(path) if module.partition(".")[0] == "engines"}
    assert ours <= {"engines.spec", "engines.spec.CONTROLS"}


def test_only_settings_reads_the_environment() -> None:
    readers = {"os.environ", "os.getenv", "os.environb"}
    found = {str(path.relative_to(ROOT)) for package in PACKAGES for path in modules(package) if reads(path, readers)}
    assert found - WRITE_FOR_LIBRARIES == set()


def reads(path: Path, names: Collection[str]) -> bool:
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    attributes = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    return bool((attributes | set(imports(path))) & set(names))


def test_nothing_happens_when_the_packages_are_imported() -> None:
    """No calls at module level beyond definitions: nothing connects, reads or prints by being imported."""
    suspicious = {"print", "open", "connect", "load_settings", "exec", "eval"}
    found = []
    for package in sorted(PACKAGES):
        for path in modules(package):
            body = ast.parse(path.read_text(encoding="utf-8")).body
            statements = [
                node.value for node in body if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
            ]
            found += [f"{path.name}: {ast.unparse(call)}" for call in statements if called(call) in suspicious]
    assert found == []


def called(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]
