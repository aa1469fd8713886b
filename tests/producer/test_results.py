"""Results in row order."""

from __future__ import annotations

import random

from jobs.job import RenderResult
from producer.results import Stored, in_row_order


def result(row: int, id_: str | None = None) -> Stored:
    ended = RenderResult(id=id_ or f"{row:020x}", batch="b", row=row, state="done", image="i", prompt="p", seed=1)
    return Stored(row, ended.model_dump_json(indent=1))


def test_rows_are_sorted() -> None:
    rows = list(range(1, 500))
    random.Random(0).shuffle(rows)
    assert [ended.row for ended in in_row_order(result(row) for row in rows)] == list(range(1, 500))


def test_a_result_that_redis_gives_twice_comes_once() -> None:
    assert len(list(in_row_order([result(1), result(2), result(1)]))) == 2


def test_two_jobs_of_one_row_both_come() -> None:
    assert len(list(in_row_order([result(1, "a"), result(1, "b")]))) == 2
