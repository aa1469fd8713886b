"""Which tests get the marker `processes`."""

from __future__ import annotations

import pytest

from tests.marking import depends_on_timing, runs_models


@pytest.mark.parametrize("module", ["tests.integration.test_worker_faults", "tests.integration.test_chaos"])
def test_files_that_start_processes_or_import_a_helper_that_does(module: str) -> None:
    assert depends_on_timing(module, [])


def test_a_file_with_neither_is_left_out_unless_a_test_uses_redis() -> None:
    assert not depends_on_timing("tests.jobs.test_uri", ["tmp_path"])
    assert depends_on_timing("tests.jobs.test_uri", ["ledger", "redis_url", "redis_server"])


def test_files_that_build_models_themselves_or_by_a_helper() -> None:
    assert runs_models("tests.engines.build.test_builder")
    assert not runs_models("tests.jobs.test_uri")


def test_the_marker_is_set_on_the_tests_themselves(request: pytest.FixtureRequest, redis_url: str) -> None:
    assert request.node.get_closest_marker("processes")
    assert redis_url
