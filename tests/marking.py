"""Two markers that tests get by what their files import, so that no list has to be kept.

`processes`: it starts processes or threads, waits for time to pass, or talks to a real server; a busy machine may upset
it. Its file, or a helper in tests/ or tools/ that the file imports, imports one of TIMING, or it uses one of SERVERS.

`models`: it builds, compiles or runs a model, which takes seconds; its file or such a helper imports one of MODELS.

`make test-fast` runs the tests with neither marker.
"""

from __future__ import annotations

from functools import cache

from tools.import_graph import Graph, import_graph, imported_names, module_name, python_files, reachable

TIMING = frozenset({"subprocess", "threading", "multiprocessing", "concurrent.futures", "signal", "socket", "time"})
MODELS = frozenset({"diffusers", "onnx", "onnxruntime", "engines.build.builder", "engines.build.onnx_export",
                    "engines.engine_set", "worker.renderer"})  # fmt: skip
SERVERS = frozenset({"redis_server", "s3_environment"})  # fixtures
HELPERS = ("tests", "tools")


def depends_on_timing(module: str, fixtures: list[str]) -> bool:
    """Whether a test of this module with these fixtures gets the marker `processes`."""
    return bool(SERVERS & set(fixtures)) or _imports(module, TIMING)


def runs_models(module: str) -> bool:
    """Whether a test of this module gets the marker `models`."""
    return _imports(module, MODELS)


@cache
def _imports(module: str, names: frozenset[str]) -> bool:
    """Whether a module, or a helper that it imports, imports one of these."""
    return bool(({module} | reachable(_graph(), module)) & _importing(names))


@cache
def _graph() -> Graph:
    return import_graph(HELPERS)


@cache
def _importing(names: frozenset[str]) -> frozenset[str]:
    paths = [path for package in HELPERS for path in python_files(package)]
    return frozenset(module_name(path) for path in paths if imported_names(path) & names)
