"""The small set of job ids."""

from __future__ import annotations

import random
import tracemalloc

from jobs.ledger.idset import IdSet


def ids(number: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [f"{rng.getrandbits(80):020x}" for _ in range(number)]


def test_what_was_put_in_is_there_and_nothing_else() -> None:
    there, others = ids(5000, 1), ids(5000, 2)
    found = IdSet(there)
    assert all(id_ in found for id_ in there)
    assert not any(id_ in found for id_ in others)
    assert len(found) == 5000


def test_the_least_and_the_greatest_id_have_their_place() -> None:
    found = IdSet(["0" * 20, "f" * 20])
    assert "0" * 20 in found
    assert "f" * 20 in found
    assert "8" * 20 not in found
    assert "0" * 20 not in IdSet([])


def test_an_id_costs_some_eight_bytes() -> None:
    there = ids(50_000, 3)
    tracemalloc.start()
    found = IdSet(there)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == 50_000
    assert size < 12 * 50_000
