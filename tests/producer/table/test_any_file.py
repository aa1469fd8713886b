"""Whatever bytes a file holds, the check ends with jobs or with problems: never with a traceback, never silently."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.errors import InvalidJob
from jobs.job import RenderParameters
from jobs.uri import resolve_uri
from producer.table.check import CheckedRows
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
    st.sampled_from(
        [
            "١٢",
            "1_000",
            "NaN",
            "-0",
            "1e-400",
            "0x10",
            "9" * 5000,
            "²",
            "\0",
            "\udcff",
            "\ud800",
            "x" * 300,
            "a/" * 3000,
        ]
    ),
    st.sampled_from(
        [
            *("~", "~nobody", "data:,x", "file:/x", "file://", "file:///%00", "s3:/x", "s3://", "s3://b", "mailto:x"),
            *("http://h:99999/", "http://h:abc/", "http://u:p@/", "//h/x", "FILE://x", "HTTP://[::1", "/dev/null"),
            *("C:\\x", "\\\\s\\x"),
        ]
    ),
)
BASE = Path("/some folder/with ünïcode")


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400) | st.text('image,prompt;seed\t"\r\n\0\ufeff x1é', max_size=200).map(str.encode))
def test_any_bytes_are_read_or_explained(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        outcome = checked(Path(folder), data)
    assert all(problem.line >= 1 and problem.message for problem in outcome.problems)
    assert outcome.problems or outcome.good == outcome.rows


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=60) | st.text('",; \0\u00e9=\\:~/x1\r', max_size=60).map(str.encode))
def test_a_row_behind_any_line_is_read_or_the_file_is_refused(line: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "z.png").touch()
        outcome = checked(Path(folder), b"image,prompt\n" + line.replace(b"\n", b"") + b"\nz.png,x\n")
    lines = line.replace(b"\n", b"").count(b"\r") + 1
    assert outcome.unreadable or (outcome.good >= 1 and outcome.rows <= lines + 1)
    assert json.dumps([problem.as_dict() for problem in outcome.problems])
    assert all(problem.line <= lines + 1 for problem in outcome.problems)


@settings(max_examples=150, deadline=None)
@given(st.lists(CELLS, min_size=1, max_size=len(COLUMNS) + 2))
def test_any_row_becomes_parameters_or_problems(cells: list[str]) -> None:
    result = RowChecker(tuple(COLUMNS), BASE).check(Record(2, 1, cells))
    if isinstance(result, list):
        assert result
        assert all(problem.sentence("jobs.csv").startswith("jobs.csv:2: ") for problem in result)
    else:
        assert RenderParameters.model_validate_json(result.model_dump_json()) == result


@settings(max_examples=150, deadline=None)
@given(CELLS)
def test_any_image_of_a_csv_in_a_bucket_is_a_uri_or_a_problem(cell: str) -> None:
    result = RowChecker(("image", "prompt"), "s3://bucket/a/b/").check(Record(2, 1, [cell, "x"]))
    if isinstance(result, RenderParameters):
        assert result.image.startswith(("s3://", "file:///", "http://", "https://"))
        keys = result.image.removeprefix("s3://bucket/").split("/")
        assert not result.image.startswith("s3://bucket/") or "://" in cell or not {"..", "."} & set(keys)
    else:
        assert all(problem.sentence("s3://bucket/a/b/jobs.csv") for problem in result)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(CELLS, min_size=2, max_size=len(COLUMNS)), max_size=5))
def test_good_rows_come_back_from_the_temporary_file_as_they_were(rows: list[list[str]]) -> None:
    checker = RowChecker(tuple(COLUMNS), BASE)
    results = [(row, checker.check(Record(row + 1, row, cells))) for row, cells in enumerate(rows, 1)]
    good = [(row, result) for row, result in results if isinstance(result, RenderParameters)]
    with CheckedRows() as spool:
        for row, parameters in good:
            spool.add(row, parameters)
        assert list(spool) == good


@settings(max_examples=300, deadline=None)
@given(st.text("ab0._-/ ~%ü:#", min_size=1, max_size=12), st.sampled_from([BASE, "s3://bucket/a/b/", "s3://bucket/"]))
def test_the_short_cut_for_plain_paths_gives_the_same_uri(cell: str, base: Path | str) -> None:
    result = RowChecker(("image", "prompt"), base).check(Record(2, 1, [cell, "x"]))
    if isinstance(result, RenderParameters):
        assert result.image == resolve_uri(cell.strip(), base)
        return
    try:
        resolve_uri(cell.strip(), base)
    except (InvalidJob, RuntimeError, ValueError):
        return
    assert not cell.strip()
