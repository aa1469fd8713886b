"""Which tests start processes, wait for time to pass, or talk to a real server: those that a busy machine may upset.

They get the marker `processes` by themselves, so no list has to be kept. A test is one of them if its file, or a helper
in tests/ or tools/ that the file imports, imports one of TIMING, or if it uses the real Redis.
"""

from __future__ import annotations

from functools import cache

from tools.import_graph import Graph, import_graph, imported_names, module_name, python_files, reachable

TIMING = frozenset({"subprocess", "threading", "multiprocessing", "concurrent.futures", "signal", "socket", "time"})
REDIS_FIXTURE = "redis_server"
HELPERS = ("tests", "tools")


def depends_on_timing(module: str, fixtures: list[str]) -> bool:
    """Whether a test of this module with these fixtures gets the marker."""
    return REDIS_FIXTURE in fixtures or bool(({module} | reachable(_graph(), module)) & _timing_modules())


@cache
def _graph() -> Graph:
    return import_graph(HELPERS)


@cache
def _timing_modules() -> frozenset[str]:
    paths = [path for package in HELPERS for path in python_files(package)]
    return frozenset(module_name(path) for path in paths if imported_names(path) & TIMING)
