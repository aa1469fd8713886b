"""Whatever bytes a file holds, the check ends with jobs or with problems: never with a traceback, never silently."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InvalidJob
from jobs.job import RenderParameters
from jobs.uri import resolve_uri
from producer.table.columns import COLUMNS
from producer.table.reader import Record
from producer.table.rows import RowChecker
from tests.producer.tables import checked

CELLS = st.one_of(
    st.text(max_size=20),
    st.text("0123456789.-+eE_, ", max_size=8),
    st.sampled_from(
        ["", " ", "true", "no", "-1", "0", "1e999", "nan", "4.29E+09", "a.png", "s3://b/k", "http://[", "~x/y"]
    ),
)
BASE = Path("/some folder/with ünïcode")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400) | st.text('image,prompt;seed\t"\r\n\0\ufeff x1é', max_size=200).map(str.encode))
def test_any_bytes_are_read_or_explained(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = checked(Path(folder), data)
    assert all(problem.line >= 1 and problem.message for problem in found.problems)
    assert found.problems or found.good == found.rows


@settings(max_examples=150, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=len(COLUMNS) + 2))
def test_any_row_becomes_parameters_or_problems(cells: list[str]) -> None:
    found = RowChecker(tuple(COLUMNS), BASE).check(Record(2, 1, cells))
    if isinstance(found, list):
        assert found
        assert all(problem.sentence("jobs.csv").startswith("jobs.csv:2: ") for problem in found)
    else:
        assert RenderParameters.model_validate_json(found.model_dump_json()) == found


@settings(max_examples=300, deadline=None)
@given(st.text("ab0._-/ ~%ü:#", min_size=1, max_size=12))
def test_the_short_cut_for_plain_paths_gives_the_same_uri(cell: str) -> None:
    found = RowChecker(("image", "prompt"), BASE).check(Record(2, 1, [cell, "x"]))
    if isinstance(found, RenderParameters):
        assert found.image == resolve_uri(cell.strip(), BASE)
        return
    try:
        resolve_uri(cell.strip(), BASE)
    except (InvalidJob, RuntimeError, ValueError):
        return
    assert not cell.strip()
