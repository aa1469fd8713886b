"""Which tests begin first where several processes share them.

pytest-xdist's worksteal gives each process an equal share of the tests, in their order, and moves what is left of a
share when another process has none. A long file that begins late keeps one process busy after the others have ended,
and one that is divided has its fixtures made twice. So the long files are at the beginning of the shares.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

# Seconds on a quiet machine. Only their order matters; a file that is missing costs some seconds at the end.
LONG = {
    "tests.integration.test_chaos": 85,
    "tests.test_docs_commands": 80,
    "tests.integration.test_schedule_parity": 60,
    "tests.integration.test_wrong_workers": 50,
    "tests.engines.backends.inductor.test_packages": 45,
    "tests.integration.test_odd_s3_stores": 40,
    "tests.integration.test_storage_faults": 40,
    "tests.test_base_install": 40,
    "tests.integration.test_command_line": 35,
    "tests.integration.test_parity_end_to_end": 35,
    "tests.producer.keep.test_two_keeps": 30,
    "tests.engines.model.test_checkpoint": 30,
    "tests.jobs.storage.test_http_hosts": 30,
    "tests.engines.export.test_exporter": 30,
    "tests.engines.check.test_score": 25,
    "tests.producer.keep.test_keep": 25,
    "tests.integration.test_worker_faults": 25,
    "tests.engines.build.test_builder": 25,
    "tests.worker.celery.test_remote_control": 25,
    "tests.examples.test_demo_model": 20,
    "tests.engines.check.test_verify": 20,
    "tests.integration.test_additions_parity": 20,
}


def long_ones_first(items: Sequence[pytest.Item], *, processes: int) -> list[pytest.Item]:
    """The same tests: each process's share begins with long files, and goes on in the order of before."""
    files: dict[str, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(_module(item), []).append(item)
    heads: list[list[pytest.Item]] = [[] for _ in range(processes)]
    seconds = [0] * processes
    for name in sorted(LONG.keys() & files.keys(), key=lambda name: (-LONG[name], name)):
        shortest = seconds.index(min(seconds))
        heads[shortest] += files.pop(name)
        seconds[shortest] += LONG[name]
    others = [item for tests in files.values() for item in tests]
    arranged: list[pytest.Item] = []
    for number, head in enumerate(heads):
        share = (len(items) - len(arranged)) // (processes - number)
        taken = max(0, share - len(head))
        arranged += [*head, *others[:taken]]
        del others[:taken]
    return arranged + others


def _module(item: pytest.Item) -> str:
    return item.module.__name__ if isinstance(item, pytest.Function) else item.nodeid
