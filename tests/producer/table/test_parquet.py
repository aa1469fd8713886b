"""Parquet: typed columns by batches of rows, damage, and what to do where pyarrow is missing."""

from __future__ import annotations

import datetime
import io
import random
import sys
from collections.abc import Mapping
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from jobs.job import RenderParameters
from jobs.settings import load_settings
from producer.exits import CommandFailed
from producer.submission import Outcome, Request
from producer.table.check import check
from producer.table.parquet import BATCH_ROWS, parquet_table
from producer.table.problem import CsvMistakes

GOOD = {"image": ["/a.png", "/b.png"], "prompt": ["a house", "öl"]}


def written(columns: Mapping[str, Any], **options: Any) -> bytes:
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), buffer, **options)
    return buffer.getvalue()


def checked(
    folder: Path, data: bytes, defaults: Mapping[str, str | None] | None = None
) -> tuple[Outcome, list[RenderParameters]]:
    path = folder / "jobs.parquet"
    path.write_bytes(data)
    outcome = Outcome()
    request = Request.resolve(load_settings(), file=path, defaults=defaults)
    return outcome, [parameters for _, parameters in check(request, outcome)]


def sentences(folder: Path, data: bytes) -> str:
    return "\n".join(problem.sentence("jobs.parquet") for problem in checked(folder, data)[0].problems)


def test_typed_values_become_parameters(tmp_path: Path) -> None:
    columns = GOOD | {
        "seed": [4294967295, None],
        "scale": pyarrow.array([Decimal("7.50"), None]),
        "strength": pyarrow.array([0.9, None], pyarrow.float32()),
        "ddim_steps": [20.0, None],  # how pandas keeps whole numbers of which some are missing
        "guess_mode": [True, None],
        "n_prompt": pyarrow.array([b"dull", None]),
        "model": pyarrow.array(["m", None]).dictionary_encode(),
        "a_prompt": pyarrow.nulls(2),
        "__index_level_0__": [7, 9],
    }
    outcome, (first, second) = checked(tmp_path, written(columns))
    assert (first.seed, first.scale, first.strength, first.ddim_steps) == (4294967295, 7.5, 0.9, 20)
    assert (first.guess_mode, first.n_prompt, first.model) == (True, "dull", "m")
    assert second == RenderParameters(image="file:///b.png", prompt="öl")
    assert outcome.remarks == ("pandas' index is left out",)


@pytest.mark.parametrize(
    "kind", [pyarrow.large_string(), pyarrow.string_view(), pyarrow.binary(), pyarrow.large_binary()]
)
def test_text_of_any_arrow_type_is_text(tmp_path: Path, kind: Any) -> None:
    columns = {name: pyarrow.array(values).cast(kind) for name, values in GOOD.items()}
    assert [row.prompt for row in checked(tmp_path, written(columns))[1]] == ["a house", "öl"]


def test_rows_are_numbered_over_batches_and_row_groups(tmp_path: Path) -> None:
    rows = 2 * BATCH_ROWS + 5
    seeds: list[int] = [*range(rows - 1), -7]
    columns = {"image": ["/a.png"] * rows, "prompt": ["x"] * rows, "seed": seeds}
    outcome, good = checked(tmp_path, written(columns, row_group_size=700))
    assert [row.seed for row in good] == seeds[:-1]
    assert outcome.problems[0].sentence("f") == f"f: row {rows}: seed: '-7' is out of range; allowed: " + (
        "a whole number from -1 to 4294967295"
    )
    assert outcome.problems[0].as_dict() == {
        **{"line": None, "place": f"row {rows}", "column": "seed", "value": "-7"},
        "message": "is out of range; allowed: a whole number from -1 to 4294967295",
    }


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"image": ["a"], "promt": ["x"]}, "jobs.parquet: unknown column 'promt'; did you mean 'prompt'? (known"),
        ({"image": ["a"]}, "jobs.parquet: prompt: the column is missing; every job needs it"),
        ({"foo": ["a"], "bar": ["x"]}, "jobs.parquet: 'foo, bar' are its columns, and none of them is a job's"),
        (
            GOOD | {"seed": [datetime.datetime(2024, 1, 1)] * 2},
            "jobs.parquet: seed: holds values of the type timestamp",
        ),
        ({"image": [{"path": "a"}], "prompt": ["x"]}, "jobs.parquet: image: holds values of the type struct<path"),
        ({"image": ["a"], "prompt": [["x"]]}, "jobs.parquet: prompt: holds values of the type list<"),
        ({"image": ["a"], "prompt": [b"\xff"]}, "jobs.parquet: row 1: prompt: holds bytes that are not UTF-8"),
        ({"image": ["a", None], "prompt": ["x", "y"]}, "jobs.parquet: row 2: image: the cell is empty"),
        (GOOD | {"scale": [1.0, float("nan")]}, "jobs.parquet: row 2: scale: is nan, which is not a number"),
    ],
)
def test_what_is_wrong_is_said_with_the_row_or_the_column(
    tmp_path: Path, columns: Mapping[str, Any], sentence: str
) -> None:
    assert sentence in sentences(tmp_path, written(columns))


def test_a_column_may_be_there_once_only(tmp_path: Path) -> None:
    table = pyarrow.table([["a"], ["x"], ["y"]], names=["image", "prompt", "prompt"])
    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    assert "prompt: the column is there 2 times (2, 3)" in sentences(tmp_path, buffer.getvalue())


def test_an_option_stands_for_a_missing_column(tmp_path: Path) -> None:
    _, good = checked(tmp_path, written({"image": ["/a.png"]}), {"prompt": "a watercolour"})
    assert [row.prompt for row in good] == ["a watercolour"]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"image,prompt\na,b\n", b"PAR1" + b"x" * 200 + b"PAR1", b"\0" * 500])
def test_what_is_no_parquet_is_refused(tmp_path: Path, data: bytes) -> None:
    outcome, _ = checked(tmp_path, data)
    assert outcome.unreadable
    assert "jobs.parquet: is not a Parquet file, or is damaged: " in sentences(tmp_path, data)


def test_damage_anywhere_ends_in_rows_or_in_a_sentence() -> None:
    whole = written({"image": [f"{n}.png" for n in range(3000)], "prompt": [f"p {n}" for n in range(3000)]})
    chance = random.Random(0)
    for _ in range(60):
        data = bytearray(whole[: chance.choice([len(whole), chance.randrange(len(whole))])])
        for _ in range(3):
            data[chance.randrange(len(data))] = chance.randrange(256)
        with suppress(CsvMistakes), parquet_table(io.BytesIO(data)) as table:
            assert len(list(table.records)) <= 3000


def test_without_pyarrow_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(CommandFailed, match=r"needs pyarrow.*pip install 'batch-renderer\[parquet\]'"):
        checked(tmp_path, written(GOOD))
