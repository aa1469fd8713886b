"""Cells become values, or sentences that say what is allowed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from jobs.job import DEFAULT_A_PROMPT, DEFAULT_N_PROMPT, EMPTY_PROMPT, RenderParameters
from producer.submission import SHOWN_PROBLEMS
from producer.table.rows import RowChecker
from tests.producer.tables import checked, sentences, table


def parameters(folder: Path, text: str) -> RenderParameters:
    """The parameters of a CSV's only row."""
    with table(folder, text) as opened:
        checker = RowChecker(opened.columns, folder)
        (result,) = [checker.check(record) for record in opened.records]
    assert isinstance(result, RenderParameters), result
    return result


def cell(folder: Path, column: str, text: str) -> object:
    """What one optional cell becomes."""
    return getattr(parameters(folder, f"image,prompt,{column}\na.png,x,{text}\n"), column)


def refused(folder: Path, column: str, text: str) -> str:
    """What is said of one bad cell."""
    (sentence,) = sentences(folder, f"image,prompt,{column}\na.png,x,{text}\n")
    return sentence


def test_missing_cells_take_the_defaults(tmp_path: Path) -> None:
    values = parameters(tmp_path, "image,prompt,seed,a_prompt,strength\na.png,x,,  ,\n")
    assert values == RenderParameters(image=(tmp_path / "a.png").as_uri(), prompt="x")


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("poses/a.png", "{folder}/poses/a.png"),
        ("a b.png", "{folder}/a%20b.png"),
        ("S3://bucket/a b.png", "s3://bucket/a b.png"),
        ("https://example.org/a.png?sig=x", "https://example.org/a.png?sig=x"),
        ("", None),
    ],
)
def test_a_control_image_is_named_as_an_image_is(tmp_path: Path, text: str, uri: str | None) -> None:
    values = parameters(tmp_path, f"image,prompt,control_image\na.png,x,{text}\n")
    assert values.control_image == (uri and uri.format(folder=tmp_path.as_uri()))


def test_what_is_wrong_with_a_control_image_is_said_without_its_secrets(tmp_path: Path) -> None:
    assert "names a bucket and no key" in refused(tmp_path, "control_image", "s3://bucket")
    for text in ("ftp://u:hunter2@h/a", "https://u:hunter2@h/" + "x" * 5000):
        said = refused(tmp_path, "control_image", text)
        assert said.startswith("jobs.csv:2: control_image: ")
        assert "hunter2" not in said


def test_a_control_image_s_name_may_be_any_bytes_of_a_file_that_is_here(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / os.fsdecode(b"caf\xe9.png")).touch()
    good = b"image,prompt,control_image\na.png,x,caf\xe9.png\ncaf\xe9.png,x,caf\xe9.png\n"
    assert checked(tmp_path, good).problems == []
    for bad in (b"a.png,x,th\xe9.png", b"th\xe9.png,x,caf\xe9.png", b"a.png,caf\xe9,caf\xe9.png"):
        assert len(sentences(tmp_path, b"image,prompt,control_image\n" + bad + b"\n")) == 1


def test_zero_is_a_value(tmp_path: Path) -> None:
    values = parameters(tmp_path, "image,prompt,seed,strength,scale,low_threshold,guess_mode\na.png,x,0,0,0,0,0\n")
    assert (values.seed, values.strength, values.scale, values.low_threshold, values.guess_mode) == (
        0,
        0.0,
        0.0,
        0,
        False,
    )


def test_a_short_row_lacks_its_last_cells(tmp_path: Path) -> None:
    assert parameters(tmp_path, "image,prompt,seed,scale\na.png,x\n").scale == 9.0


def test_trailing_delimiters_are_harmless(tmp_path: Path) -> None:
    assert parameters(tmp_path, "image,prompt\na.png,x,, ,\n").prompt == "x"


@pytest.mark.parametrize("text", ["20", " 20 ", "20.0", "+20", "20.", "020"])
def test_whole_numbers_are_read_as_people_and_spreadsheets_write_them(tmp_path: Path, text: str) -> None:
    assert cell(tmp_path, "ddim_steps", text) == 20


@pytest.mark.parametrize(("text", "number"), [("0.5", 0.5), (".5", 0.5), ("1", 1.0), ("5e-1", 0.5), (" 2. ", 2.0)])
def test_numbers_are_read(tmp_path: Path, text: str, number: float) -> None:
    assert cell(tmp_path, "strength", text) == number


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("true", True), ("TRUE", True), ("1", True), ("yes", True), ("False", False), ("0", False), (" no ", False)),
        *(("1.0", True), ("0.0", False)),  # a column of 1 and 0 with an empty cell, as pandas writes it
    ],
)
def test_booleans_are_read(tmp_path: Path, text: str, value: bool) -> None:
    assert cell(tmp_path, "guess_mode", text) is value


@pytest.mark.parametrize(
    ("column", "text", "said"),
    [
        ("ddim_steps", "2O", "'2O' is not a whole number; allowed: a whole number from 1 to 999"),
        ("ddim_steps", "20.5", "'20.5' is not a whole number; allowed: a whole number from 1 to 999"),
        ("ddim_steps", "0", "'0' is out of range; allowed: a whole number from 1 to 999"),
        ("ddim_steps", "1_0", "'1_0' is not a whole number; allowed: a whole number from 1 to 999"),
        ("ddim_steps", "\u0661\u0662", "'\u0661\u0662' is not a whole number; allowed: a whole number from 1 to 999"),
        ("ddim_steps", "\u00b2", "'\u00b2' is not a whole number; allowed: a whole number from 1 to 999"),
        ("ddim_steps", "1_000", "'1_000' is not a whole number; allowed: a whole number from 1 to 999"),
        ("num_samples", "13", "'13' is out of range; allowed: a whole number from 1 to 12"),
        (
            "image_resolution",
            "500",
            "'500' is not a multiple of 64; allowed: a whole number from 64 to 2048, a multiple of 64",
        ),
        ("seed", "-2", "'-2' is out of range; allowed: a whole number from -1 to 4294967295"),
        ("strength", "strong", "'strong' is not a number; allowed: a number from 0 to 2"),
        ("strength", "nan", "'nan' is not a number; allowed: a number from 0 to 2"),
        ("strength", "inf", "'inf' is not a number; allowed: a number from 0 to 2"),
        ("strength", "NaN", "'NaN' is not a number; allowed: a number from 0 to 2"),
        ("strength", "1e999", "'1e999' is too large a number; allowed: a number from 0 to 2"),
        ("strength", '"0,5"', "'0,5' has a decimal comma; write 0.5; allowed: a number from 0 to 2"),
        ("scale", "31", "'31' is out of range; allowed: a number from 0 to 30"),
        ("guess_mode", "2", "'2' is neither true nor false; allowed: true or false (also 1, 0, yes, no)"),
    ],
)
def test_a_bad_cell_is_quoted_with_what_is_allowed(tmp_path: Path, column: str, text: str, said: str) -> None:
    assert refused(tmp_path, column, text) == f"jobs.csv:2: {column}: {said}"


def test_a_seed_that_a_spreadsheet_has_shortened_is_not_guessed(tmp_path: Path) -> None:
    assert "is in the short form that spreadsheets give long numbers" in refused(tmp_path, "seed", "4.29E+09")


def test_a_number_of_thousands_of_digits_is_refused_quickly(tmp_path: Path) -> None:
    assert "has 100,000 characters, too many for a number" in refused(tmp_path, "seed", "9" * 100_000)


def test_a_long_prompt_is_refused_by_its_length(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, f"image,prompt\na.png,{'x' * 4001}\n")
    assert "has 4,001 characters; allowed: text of at most 4,000 characters" in sentence
    assert len(sentence) < 250


@pytest.mark.parametrize(("text", "column"), [(",a cat", "image"), ("a.png,", "prompt"), ("a.png", "prompt")])
def test_an_empty_required_cell_is_named(tmp_path: Path, text: str, column: str) -> None:
    assert sentences(tmp_path, f"image,prompt\n{text}\n") == [
        f"jobs.csv:2: {column}: the cell is empty; every job needs one"
        + (" (write <empty> for none)" if column == "prompt" else "")
    ]


def test_thresholds_out_of_order_are_explained(tmp_path: Path) -> None:
    assert sentences(tmp_path, "image,prompt,low_threshold\na.png,x,250\n") == [
        "jobs.csv:2: low_threshold (250) must not exceed high_threshold (200)"
    ]


@pytest.mark.parametrize(
    ("column", "text", "with_it", "said"),
    [
        (
            "low_threshold",
            "x",
            ("high_threshold", "50"),
            "'x' is not a whole number; allowed: a whole number from 0 to 255",
        ),
        ("format", ".jpg", ("quality", "90"), "'.jpg' is not one of them; allowed: png or jpeg or webp"),
    ],
)
def test_a_bad_cell_is_no_second_mistake_of_a_rule_over_several(
    tmp_path: Path, column: str, text: str, with_it: tuple[str, str], said: str
) -> None:
    table = f"image,prompt,{column},{with_it[0]}\na.png,x,{text},{with_it[1]}\n"
    assert sentences(tmp_path, table) == [f"jobs.csv:2: {column}: {said}"]


@pytest.mark.parametrize("prompt", ["(a large scale:200)", "(it's a scale:200)"])
def test_a_bad_cell_hides_no_weight_whose_words_are_called_like_its_column(tmp_path: Path, prompt: str) -> None:
    first, second = sentences(tmp_path, f"image,prompt,prompt_syntax,scale\na.png,{prompt},weighted,x\n")
    assert first.startswith("jobs.csv:2: scale: 'x' is not a number")
    assert "scale" in second
    assert "the weight 200; allowed with prompt_syntax weighted: " in second


def test_too_many_cells_are_explained(tmp_path: Path) -> None:
    assert sentences(tmp_path, "image,prompt\na.png,a cat, sitting\n") == [
        "jobs.csv:2: the row has 3 cells, the header 2 columns; "
        "put quotation marks around a cell that contains the delimiter"
    ]


def test_every_problem_of_a_row_is_told(tmp_path: Path) -> None:
    said = sentences(tmp_path, "image,prompt,seed,scale,ddim_steps\n,x,no,99,20\n")
    assert [sentence.split(":")[2] for sentence in said] == [" seed", " image", " scale"]


def test_every_bad_row_is_counted_and_the_first_are_kept(tmp_path: Path) -> None:
    outcome = checked(tmp_path, "image,prompt,seed\n" + "a.png,x,no\n" * 500 + "a.png,x,1\n")
    assert (outcome.rows, outcome.rejected, outcome.problem_count, outcome.good) == (501, 500, 500, 1)
    assert len(outcome.problems) == SHOWN_PROBLEMS


def test_control_characters_of_a_cell_do_not_reach_the_terminal(tmp_path: Path) -> None:
    assert "\x1b" not in refused(tmp_path, "seed", "\x1b[2J")


@pytest.mark.parametrize("uri", ["s3://bucket/a.png", "https://example.org/a.png?b=c", "http://example.org/a.png"])
def test_remote_uris_pass_as_they_are(tmp_path: Path, uri: str) -> None:
    assert parameters(tmp_path, f"image,prompt\n{uri},x\n").image == uri


@pytest.mark.parametrize("text", ["photos/a b.png", "./photos/a b.png", "file://photos/a%20b.png"])
def test_relative_paths_start_at_the_csvs_folder(tmp_path: Path, text: str) -> None:
    assert parameters(tmp_path, f"image,prompt\n{text},x\n").image == (tmp_path / "photos/a b.png").as_uri()


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "image,prompt\nftp://example.org/a.png,x\n")
    assert sentence.startswith("jobs.csv:2: image: 'ftp://example.org/a.png' has the scheme 'ftp'; use")


def test_a_password_in_a_refused_uri_is_not_shown(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "image,prompt\nftp://me:secret@example.org/a.png,x\n")
    assert "secret" not in sentence


@pytest.mark.parametrize("uri", ["~nobody-of-that-name/a.png", "http://[bad/a.png"])
def test_paths_that_cannot_be_understood_are_refused(tmp_path: Path, uri: str) -> None:
    (sentence,) = sentences(tmp_path, f"image,prompt\n{uri},x\n")
    assert sentence.startswith("jobs.csv:2: image: ")


def test_pictures_that_are_not_here_are_counted_but_are_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "here.png").touch()
    outcome = checked(tmp_path, "image,prompt\nhere.png,x\naway.png,x\ns3://b/k.png,x\n")
    assert (outcome.problems, outcome.absent, outcome.first_absent) == ([], 1, (3, str(tmp_path / "away.png")))


@pytest.mark.parametrize("text", ["<empty>", "<EMPTY>", " <Empty> ", '"<empty>"', "<empty>\t"])
def test_an_empty_prompt_is_asked_for_by_name(tmp_path: Path, text: str) -> None:
    assert cell(tmp_path, "n_prompt", text) == ""
    assert cell(tmp_path, "a_prompt", text) == ""
    assert parameters(tmp_path, f"image,prompt\na.png,{text}\n").prompt == EMPTY_PROMPT


@pytest.mark.parametrize("text", ["", '""', " ", '"   "'])
def test_a_blank_prompt_cell_is_the_default_however_it_is_quoted(tmp_path: Path, text: str) -> None:
    assert cell(tmp_path, "n_prompt", text) == DEFAULT_N_PROMPT
    assert cell(tmp_path, "a_prompt", text) == DEFAULT_A_PROMPT


@pytest.mark.parametrize("text", ["-", "none", "empty", "a cat, <empty>", "<empty", "<none>"])
def test_nothing_else_is_taken_for_an_empty_prompt(tmp_path: Path, text: str) -> None:
    assert cell(tmp_path, "n_prompt", f'"{text}"') == text


def test_defaults_of_a_file_fill_blank_missing_and_short_cells_and_no_other(tmp_path: Path) -> None:
    text = "image,prompt,n_prompt\na.png,x,\na.png,x\na.png,x,dull\na.png,x,<empty>\n"
    with table(tmp_path, text) as opened:
        checker = RowChecker(opened.columns, tmp_path, defaults={"n_prompt": "grey", "a_prompt": ""})
        rows = [checker.check(record) for record in opened.records]
    assert [row.n_prompt for row in rows if isinstance(row, RenderParameters)] == ["grey", "grey", "dull", ""]
    assert {row.a_prompt for row in rows if isinstance(row, RenderParameters)} == {""}


@pytest.mark.parametrize("defaults", [{"quality": 70}, {"quality": 70, "format": "webp"}])
def test_a_quality_for_a_file_is_for_the_rows_that_can_take_it(tmp_path: Path, defaults: dict[str, str | int]) -> None:
    """A row's own quality is no default: a PNG with one is refused as ever, and so is a file without a format."""
    text = "image,prompt,format,quality\na.png,x,,\na.png,x,png,\na.png,x,jpeg,\na.png,x,jpeg,90\na.png,x,png,90\n"
    with table(tmp_path, text) as opened:
        checker = RowChecker(opened.columns, tmp_path, defaults=defaults)
        rows = [checker.check(record) for record in opened.records]
    found = [(row.format, row.quality) if isinstance(row, RenderParameters) else row[0].message for row in rows]
    first = ("webp", 70) if "format" in defaults else ("png", None)
    only_in_others = "quality goes with format jpeg or webp; a PNG loses nothing"
    assert found == [first, ("png", None), ("jpeg", 70), ("jpeg", 90), only_in_others]
    with table(tmp_path, "image,prompt\na.png,x\n") as opened:
        (refused,) = [RowChecker(opened.columns, tmp_path, defaults={"quality": 70}).check(r) for r in opened.records]
    assert isinstance(refused, list)
