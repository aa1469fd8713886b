"""Rows at a bit each."""

from __future__ import annotations

import tracemalloc

from jobs.ledger.rowset import RowSet


def test_a_row_is_in_it_under_its_files_prefix_alone() -> None:
    rows = RowSet()
    rows.add("", 1023)
    rows.add("abcd:", 1024)
    rows.add("", 10**15)
    there = [
        (prefix, row) for prefix in ("", "abcd:") for row in (1, 1022, 1023, 1024, 10**15) if (prefix, row) in rows
    ]
    assert there == [("", 1023), ("", 10**15), ("abcd:", 1024)]


def test_a_million_rows_take_less_than_a_megabyte() -> None:
    tracemalloc.start()
    rows = RowSet()
    for row in range(1, 10**6):
        rows.add("", row)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 1_000_000
