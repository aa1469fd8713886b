"""A short run of tools/chaos.py: every job ends once, whole and right, whatever breaks meanwhile."""

from __future__ import annotations

from pathlib import Path

from tests.chaos.arena import Plan
from tests.chaos.run import chaos


def test_a_batch_survives_what_is_broken_on_purpose(tmp_path: Path) -> None:
    # Slow jobs, so that some are running when a fault comes.
    result = chaos(Plan(jobs=100, workers=2, faults=6, seed=1, step_ms=250, forked=True), tmp_path)
    assert result["wrong"] == []
    assert result["faults"] == 6
    assert (result["done"], result["failed"]) == (99, 1)


def test_storage_away_wrong_workers_and_foreign_pools_cost_nothing(tmp_path: Path) -> None:
    only = ("storage_away", "wrong_worker", "foreign_pool")
    # The wrong worker, which is slow to start and to refuse, comes last with this seed.
    plan = Plan(
        jobs=100, workers=2, faults=3, seed=3, step_ms=250, storage="bucket", away_seconds=6, only=only, forked=True
    )
    result = chaos(plan, tmp_path)
    assert result["wrong"] == []
    assert result["broken"] == dict.fromkeys(sorted(only), 1)
    assert (result["done"], result["failed"]) == (99, 1)
    assert result["drawn_again_for_storage"] == 0
