"""JSON Lines: typed values, keys in any order, and what is wrong with a line."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.job import RenderParameters
from jobs.settings import load_settings
from producer.submission import Outcome, Request
from producer.table.check import check
from producer.table.json_lines import LONGEST_LINE, json_lines_table
from tests.producer.tables import write

GOOD = {"image": "/a.png", "prompt": "a house"}


def checked(folder: Path, text: str | bytes, name: str = "jobs.jsonl") -> tuple[Outcome, list[RenderParameters]]:
    outcome = Outcome()
    request = Request.resolve(load_settings(), file=write(folder, text, name))
    return outcome, [parameters for _, parameters in check(request, outcome)]


def problems(folder: Path, text: str | bytes) -> list[str]:
    return [problem.sentence("jobs.jsonl") for problem in checked(folder, text)[0].problems]


def test_values_keep_their_types_and_null_is_an_empty_cell(tmp_path: Path) -> None:
    row = GOOD | {"seed": 5, "scale": 7.5, "guess_mode": True, "eta": None, "n_prompt": "<empty>", "ddim_steps": 2e1}
    _, (parameters,) = checked(tmp_path, json.dumps(row))
    assert (parameters.seed, parameters.scale, parameters.guess_mode) == (5, 7.5, True)
    assert (parameters.eta, parameters.n_prompt, parameters.ddim_steps) == (0.0, "", 20)


def test_a_row_has_the_parameters_that_it_would_have_in_a_csv(tmp_path: Path) -> None:
    _, of_json = checked(tmp_path, json.dumps(GOOD | {"seed": "5", "scale": 9, "strength": 0.1}))
    _, of_csv = checked(tmp_path, "image,prompt,seed,scale,strength\n/a.png,a house,5,9,0.1\n", "jobs.csv")
    assert of_json == of_csv


def test_rows_may_have_other_keys_and_blank_lines_are_none(tmp_path: Path) -> None:
    text = '\ufeff{"image": "/a.png", "prompt": "x"}\r\n\n  \n{"seed": 1, "prompt": "y", " image ": "/b.png"}'
    outcome, parameters = checked(tmp_path, text)
    assert [(row.image, row.seed) for row in parameters] == [("file:///a.png", -1), ("file:///b.png", 1)]
    assert outcome.rows == 2


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ('{"image": ["a.png"], "prompt": "x"}', "jobs.jsonl:2: image: holds a list; a cell is text, a number, true"),
        ('{"image": "a.png", "prompt": {"text": "x"}}', "jobs.jsonl:2: prompt: holds an object; a cell is text"),
        ('{"image": "a.png", "promt": "x", "prompt": "x"}', "jobs.jsonl:2: unknown column 'promt'; did you mean"),
        ('{"image": "a.png", "prompt": "x", "prompt": "x"}', "prompt: the key is there more than once in this object"),
        ('{"image": "a.png", "prompt": "x", "seed": true}', "seed: 'true' is not a whole number; allowed:"),
        ('{"image": "a.png", "prompt": "x", "seed": 1.5}', "seed: '1.5' is not a whole number"),
        ('{"image": "a.png", "prompt": "x", "scale": NaN}', "jobs.jsonl:2: NaN is not JSON; write null"),
        ('{"image": "a.png", "prompt": "x", "scale": 1e999}', "scale: is inf, which is not a number"),
        ('{"image": "a.png", "prompt": "x", "seed": ' + "9" * 5000 + "}", "has 5,000 characters, too many for"),
        ('{"image": "a.png", "prompt": "\\ud800"}', "prompt: holds bytes that are not UTF-8, or half a character"),
        ('{"image": "a.png", "prompt": "a\\u0000b"}', "prompt: holds a NUL character"),
        ('{"image": "a.png"}', "prompt: the cell is empty; every job needs one"),
        ('{"image": "a.png", "prompt": "x"', "the line ends in the middle of its JSON; each row must be on one line"),
        ("{", "the line ends in the middle of its JSON"),
        ('{"image": "a.p', "the line ends in the middle of its JSON"),
        ('{"image": "a.png"} {}', "is not JSON: Extra data at character 20"),
        ("{'image': 'a.png'}", "is not JSON: Expecting property name"),
        ('"a.png"', "the line is not a JSON object; write one object a line"),
        ("[" * 100_000, "is nested too deeply"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_line_is_said_and_the_others_are_read(tmp_path: Path, line: str, sentence: str) -> None:
    outcome, good = checked(tmp_path, "\n".join([json.dumps(GOOD), line, json.dumps(GOOD)]))
    assert sentence in "\n".join(problem.sentence("jobs.jsonl") for problem in outcome.problems)
    assert (len(good), outcome.rejected) == (2, 1)


def test_the_known_columns_are_listed_once(tmp_path: Path) -> None:
    found = problems(tmp_path, '{"promt": 1}\n' * 3)
    assert sum("known columns" in sentence for sentence in found) == 1


def test_bytes_that_are_not_utf_8_are_named(tmp_path: Path) -> None:
    line = '{"image": "/a.png", "prompt": "Öl"}'.encode("cp1252")
    (sentence,) = problems(tmp_path, line)
    assert sentence.startswith("jobs.jsonl:1: byte 0xD6 is not UTF-8; as Windows-1252 the text would be")


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'[{"image": "a.png"}]', "jobs.jsonl:1: the file is one JSON array; write one object a line: jq"),
        ("{}".encode("utf-16"), "jobs.jsonl:1: the file is UTF-16; save it as UTF-8"),
        (b"\x1f\x8b\x08\0", "jobs.jsonl:1: the file is compressed by gzip; unpack it"),
        (b"PK\x03\x04", "jobs.jsonl:1: the file is a spreadsheet or zip archive"),
        (b"PAR1....", "jobs.jsonl:1: the file is Parquet, not JSON Lines; give --input-format parquet"),
        (b"\x89PNG\r\n\x1a\n", "jobs.jsonl:1: the file is a picture"),
    ],
)
def test_a_file_of_another_kind_is_refused_as_a_whole(tmp_path: Path, data: bytes, sentence: str) -> None:
    outcome, good = checked(tmp_path, data)
    assert (outcome.unreadable, good) == (True, [])
    assert outcome.problems[0].sentence("jobs.jsonl").startswith(sentence)


@settings(max_examples=80, deadline=None)
@given(st.binary(max_size=200) | st.text('{}[]":,\\\nimage prompt1.eE-\0é', max_size=100).map(str.encode))
def test_any_bytes_are_read_or_explained(data: bytes) -> None:
    for record in json_lines_table(io.BytesIO(data)).records:
        assert record.line >= record.row >= 1
        assert all(problem.message for problem in (*record.mistakes, *record.besides))


def test_a_csv_with_json_in_it_says_so(tmp_path: Path) -> None:
    outcome, _ = checked(tmp_path, json.dumps(GOOD), "jobs.csv")
    assert "the file is JSON, not CSV; give --input-format jsonl" in outcome.problems[0].message


def test_a_line_that_is_too_long_is_one_bad_row() -> None:
    long = b'{"image": "' + b"a" * (2 * LONGEST_LINE) + b'"}\n'
    first, second = json_lines_table(io.BytesIO(long + json.dumps(GOOD).encode())).records
    assert "the line is longer than" in first.mistakes[0].message
    assert (second.line, second.row, second.cells[1]) == (2, 2, "a house")
