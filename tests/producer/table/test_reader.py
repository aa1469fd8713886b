"""A CSV as a file: encodings, delimiters, headers, quotation marks and line numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from producer.table.reader import LONGEST_LINE
from tests.producer.tables import checked, sentences, table


def lines_and_rows(folder: Path, text: str | bytes) -> list[tuple[int, int]]:
    with table(folder, text) as opened:
        return [(record.line, record.row) for record in opened.records]


def test_a_plain_file_is_read(tmp_path: Path) -> None:
    outcome = checked(tmp_path, "image,prompt\na.png,a cat\n")
    assert (outcome.rows, outcome.problems, outcome.remarks) == (1, [], ())


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    assert checked(tmp_path, b"\xef\xbb\xbfimage,prompt\na.png,a cat\n").problems == []


@pytest.mark.parametrize(("delimiter", "word"), [(";", "semicolons"), ("\t", "tabs")])
def test_other_delimiters_are_detected_and_said(tmp_path: Path, delimiter: str, word: str) -> None:
    text = delimiter.join(["image", "prompt"]) + "\n" + delimiter.join(["a.png", "a cat, a dog"]) + "\n"
    outcome = checked(tmp_path, text)
    assert (outcome.rows, outcome.problems) == (1, [])
    assert outcome.remarks == (f"its columns are separated by {word}",)


def test_a_semicolon_in_a_prompt_does_not_change_the_delimiter(tmp_path: Path) -> None:
    assert checked(tmp_path, "image,prompt\na.png,a;b;c;d\n").problems == []


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_counts_as_one_line(tmp_path: Path, end: str) -> None:
    assert lines_and_rows(tmp_path, end.join(["image,prompt", "a.png,x", "b.png,y", ""])) == [(2, 1), (3, 2)]


def test_a_last_line_without_its_end_is_a_row(tmp_path: Path) -> None:
    assert lines_and_rows(tmp_path, "image,prompt\na.png,x") == [(2, 1)]


def test_line_numbers_are_physical_ones_also_behind_quoted_newlines(tmp_path: Path) -> None:
    text = 'image,prompt\na.png,"one\ntwo\nthree"\nb.png,y\n'
    assert lines_and_rows(tmp_path, text) == [(2, 1), (5, 2)]


def test_blank_lines_are_skipped_and_do_not_move_row_numbers(tmp_path: Path) -> None:
    assert lines_and_rows(tmp_path, "\n\nimage,prompt\n\na.png,x\n \n,\nb.png,y\n\n") == [(5, 1), (8, 2)]


@pytest.mark.parametrize("text", ["", "\n", "\r\n \n", ";", ",,\n\t", '""', b"\xef\xbb\xbf"])
def test_an_empty_file_is_named_so(tmp_path: Path, text: str | bytes) -> None:
    assert sentences(tmp_path, text) == ["jobs.csv:1: the file is empty; its first line must name the columns"]


def test_a_header_alone_is_no_mistake(tmp_path: Path) -> None:
    outcome = checked(tmp_path, "image,prompt\n")
    assert (outcome.rows, outcome.problems) == (0, [])


def test_an_unknown_column_names_the_closest_known_one(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "image,prompt,ddim_step\na.png,x,20\n")
    assert sentence.startswith("jobs.csv:1: unknown column 'ddim_step'; did you mean 'ddim_steps'? (known columns: ")


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        ("Seed", "seed"),
        ("negative_prompt", "n_prompt"),
        ("steps", "ddim_steps"),
        ("cfg_scale", "scale"),
        ("url", "image"),
        ("num_images_per_prompt", "num_samples"),
        ("Threshold B", "high_threshold"),
    ],
)
def test_the_closest_column_is_the_one_that_people_mean(tmp_path: Path, column: str, meant: str) -> None:
    assert f"did you mean {meant!r}?" in sentences(tmp_path, f"image,prompt,{column}\na.png,x,1\n")[0]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        ("denoising_strength", "every row begins with noise alone, and strength is the hint's"),
        ("Sampler", "all rows are sampled by DDIM"),
        ("height", "image_resolution is the short side, and the picture gives the proportions"),
        ("Clip skip", "an engine set is built with it, and model names a set"),
    ],
)
def test_a_column_of_other_tools_that_we_have_not_is_not_taken_for_one_of_like_spelling(
    tmp_path: Path, column: str, reason: str
) -> None:
    (sentence,) = sentences(tmp_path, f"image,prompt,{column}\na.png,x,0.5\n")
    assert sentence.startswith(
        f"jobs.csv:1: unknown column {column!r}; it has no counterpart here: {reason} (known columns"
    )


def test_a_column_like_none_still_gets_the_nearest(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "image,prompt,zzz\na.png,x,1\n")
    assert re.search(r"unknown column 'zzz'; the closest known one is '\w+' \(known columns: image, prompt,", sentence)


def test_a_misspelt_required_column_is_not_called_missing_too(tmp_path: Path) -> None:
    said = sentences(tmp_path, "Image,promt\na.png,x\n")
    assert ["did you mean 'image'?" in said[0], "did you mean 'prompt'?" in said[1], len(said)] == [True, True, 2]


def test_a_column_that_is_there_twice_is_named_with_its_places(tmp_path: Path) -> None:
    assert sentences(tmp_path, "image,prompt,seed,prompt\na.png,x,1,y\n") == [
        "jobs.csv:1: prompt: the column is there 2 times (2, 4)"
    ]


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    assert sentences(tmp_path, "image,seed\na.png,1\n") == [
        "jobs.csv:1: prompt: the column is missing; every job needs it"
    ]


def test_a_column_without_a_name_is_counted_out(tmp_path: Path) -> None:
    assert sentences(tmp_path, "image,prompt,\na.png,x,1\n")[0].startswith("jobs.csv:1: column 3 has no name; is")


def test_a_file_without_a_header_is_told_what_a_header_is(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "a.png,a cat\nb.png,a dog\n")
    assert sentence == (
        "jobs.csv:1: 'a.png, a cat' is not a header: the first line must name the columns, at least image and prompt"
    )


def test_all_header_mistakes_are_told_at_once(tmp_path: Path) -> None:
    assert len(sentences(tmp_path, "image,imagee,image,foo\n")) == 4  # two unknown, one twice, one missing


def test_a_wrong_encoding_is_explained_with_line_and_byte(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "image,prompt\na.png,x\nb.png,ein Café\n".encode("cp1252"))
    assert sentence == (
        "jobs.csv:3: byte 0xE9 is not UTF-8; as Windows-1252 the text would be 'b.png,ein Café'; "
        "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
    )


def test_a_wrong_byte_far_into_a_file_is_found(tmp_path: Path) -> None:
    text = b"image,prompt\n" + b"a.png,x\n" * 20_000 + b"b.png,\xff\n"
    outcome = checked(tmp_path, text)
    assert (outcome.unreadable, outcome.rejected, outcome.problems[0].line) == (False, 1, 20_002)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_utf_16_is_named(tmp_path: Path, encoding: str) -> None:
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    (sentence,) = sentences(tmp_path, mark + "image,prompt\n".encode(encoding))
    assert "the file is UTF-16" in sentence


def test_a_nul_byte_is_named_with_its_line(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "image,prompt\na.png,x\0y\n")
    assert sentence == "jobs.csv:2: holds a NUL byte: this is a binary file or UTF-16 text"


def test_a_spreadsheet_is_recognised(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, b"PK\x03\x04" + bytes(100))
    assert "a spreadsheet or zip archive, not a CSV" in sentence


def test_a_file_without_line_ends_does_not_fill_the_memory(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "image,prompt\n" + "x" * (LONGEST_LINE + 1))
    assert sentence == "jobs.csv:2: the line is longer than 1,048,576 characters: is this a CSV file?"


def test_quotes_and_doubled_quotes_are_read(tmp_path: Path) -> None:
    with table(tmp_path, 'image,prompt\na.png,"a ""fine"" cat, sitting"\n') as opened:
        assert [record.cells for record in opened.records] == [["a.png", 'a "fine" cat, sitting']]


def test_a_quotation_mark_that_is_never_closed_is_found_where_it_opens(tmp_path: Path) -> None:
    outcome = checked(tmp_path, 'image,prompt\na.png,x\nb.png,"a cat\nc.png,y\n')
    assert outcome.unreadable
    assert [problem.sentence("jobs.csv") for problem in outcome.problems] == [
        "jobs.csv:3: a quotation mark is opened in this row and never closed"
    ]


def test_text_behind_a_closing_quotation_mark_is_explained(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, 'image,prompt\na.png,"fine" cat\n')
    assert sentence.startswith('jobs.csv:2: in this row, text follows a closing quotation mark; write "" for')


def test_a_huge_cell_is_refused_with_a_guess_at_the_cause(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, 'image,prompt\na.png,"' + "x\n" * 100_000 + '"\n')
    assert sentence == "jobs.csv:2: a cell is longer than 131,072 characters: is a quotation mark not closed?"


def test_an_unreadable_file_still_reports_the_rows_before(tmp_path: Path) -> None:
    outcome = checked(tmp_path, 'image,prompt,seed\na.png,x,no\nb.png,"y,1\n')
    assert [problem.line for problem in outcome.problems] == [2, 3]


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\r\nimage;prompt\r\na.png;a cat\r\n",
        b"\xef\xbb\xbfsep=;\r\nimage;prompt\r\na.png;a cat\r\n",
        'SEP=;\n"image";"prompt"\na.png;a cat\n',
        '"sep=;"\nimage;prompt\na.png;a cat\n',
        "sep=;;\nimage;prompt\na.png;a cat\n",
        "sep=|\nimage|prompt\na.png|a cat\n",
        "sep=\t\nimage\tprompt\na.png\ta cat\n",
        "sep=,\nimage,prompt\na.png,a cat\n",
        "\nsep=;\nimage;prompt\na.png;a cat\n",
    ],
)
def test_a_spreadsheets_line_that_names_the_delimiter_is_obeyed(tmp_path: Path, text: str | bytes) -> None:
    with table(tmp_path, text) as opened:
        (record,) = opened.records
    shift = 1 if isinstance(text, str) and text.startswith("\n") else 0
    assert (record.line, record.row, record.cells) == (3 + shift, 1, ["a.png", "a cat"])


def test_a_delimiter_that_a_file_names_is_said(tmp_path: Path) -> None:
    assert checked(tmp_path, "sep=|\nimage|prompt\na.png|x\n").remarks == ("its columns are separated by '|'",)
    assert checked(tmp_path, "sep=;\nimage;prompt\na.png;x\n").remarks == ("its columns are separated by semicolons",)


@pytest.mark.parametrize("text", ["sep=", "sep=a", 'sep="', "sep= "])
def test_a_line_that_names_no_delimiter_is_explained(tmp_path: Path, text: str) -> None:
    (sentence,) = sentences(tmp_path, f"{text}\nimage;prompt\na.png;x\n")
    assert sentence.startswith("jobs.csv:1: the line `sep=` must name the character that separates the columns")


def test_the_line_number_of_a_mistake_counts_the_line_that_names_the_delimiter(tmp_path: Path) -> None:
    (sentence,) = sentences(tmp_path, "sep=;\nimage;prompt;seed\na.png;x;two\n")
    assert sentence.startswith("jobs.csv:3: seed: 'two' is not a whole number")


@pytest.mark.parametrize(
    ("line", "cells"),
    [
        ('a.png, "a cat", "blurry"', ["a.png", "a cat", "blurry"]),
        ('a.png,   "a cat, sitting", blurry', ["a.png", "a cat, sitting", "blurry"]),
        ('a.png, "he said ""hi""",', ["a.png", 'he said "hi"', ""]),
        ('"a.png", "a cat\nsitting", x', None),  # two lines; see below
        ('a.png, "Stop" on a sign,x', ["a.png", ' "Stop" on a sign', "x"]),
        ('a.png, a "fine" cat, x', ["a.png", ' a "fine" cat', " x"]),
        ("a.png, a cat, x", ["a.png", " a cat", " x"]),
    ],
)
def test_a_space_before_a_quotation_mark_is_read_as_people_mean_it(
    tmp_path: Path, line: str, cells: list[str] | None
) -> None:
    with table(tmp_path, f"image, prompt, n_prompt\n{line}\n") as opened:
        first = next(opened.records)
    if cells is None:
        assert "a space stands before a quotation mark" in first.mistakes[0].message
    else:
        assert (first.cells, first.mistakes) == (cells, ())


def test_spaces_that_were_left_out_are_said_once_with_their_line(tmp_path: Path) -> None:
    outcome = checked(tmp_path, 'image,prompt\na.png,x\nb.png, "a cat"\nc.png, "a dog"\n')
    (remark,) = outcome.remarks
    assert (outcome.problems, remark.rpartition(" ")[2]) == ([], "3")


def test_spaces_before_the_quotation_marks_of_a_header_are_left_out(tmp_path: Path) -> None:
    assert checked(tmp_path, 'image, "prompt"\na.png, "a cat, sitting"\n').problems == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('b.png,"fine" cat', "in this row, text follows a closing quotation mark"),
        ("b.png,a\0b", "holds a NUL byte"),
        ("b.png," + "x" * 140_000, "a cell is longer than 131,072 characters"),
        ("b.png,x" + "y" * (3 * LONGEST_LINE), "the line is longer than 1,048,576 characters"),
        ('b.png,"' + "y" * LONGEST_LINE + '"', "the line is longer than 1,048,576 characters"),
        ('b.png, "a cat', "a space stands before a quotation mark"),
    ],
)
def test_a_row_that_cannot_be_split_is_one_bad_row(tmp_path: Path, line: str, said: str) -> None:
    outcome = checked(tmp_path, f"image,prompt\na.png,x\n{line}\nc.png,x,too,many\nd.png,x\n")
    assert (outcome.unreadable, outcome.rows, outcome.rejected) == (False, 4, 2)
    assert [problem.line for problem in outcome.problems] == [3, 4]
    assert said in outcome.problems[0].message


@pytest.mark.parametrize(("cell_lines", "is_whole"), [(1_400, True), (11_000, False)])
def test_a_long_cell_of_several_lines_is_one_bad_row_unless_it_seems_open(
    tmp_path: Path, cell_lines: int, is_whole: bool
) -> None:
    cell = ("y" * 99 + "\n") * cell_lines
    outcome = checked(tmp_path, f'image,prompt\na.png,x\nb.png,"{cell}"\nc.png,x\n')
    limit = "131,072" if is_whole else "1,048,576"
    assert (outcome.unreadable, outcome.rows, outcome.rejected) == ((False, 3, 1) if is_whole else (True, 1, 0))
    assert outcome.problems[0].line == 3
    assert outcome.problems[0].message.startswith(f"a cell is longer than {limit} characters")


def test_bytes_that_are_not_utf_8_are_one_bad_row(tmp_path: Path) -> None:
    outcome = checked(tmp_path, b"image,prompt\na.png,x\nb.png,Caf\xe9\nc\xe9.png,x\nd.png,x\n")
    assert (outcome.unreadable, outcome.rows, outcome.rejected) == (False, 4, 2)
    assert [problem.line for problem in outcome.problems] == [3, 4]


@pytest.mark.parametrize("header", [b"image,prompt,\xff", b"image,prompt\0", b"\xe9image,prompt"])
def test_a_header_that_is_no_text_is_a_mistake_of_the_file(tmp_path: Path, header: bytes) -> None:
    outcome = checked(tmp_path, header + b"\na.png,x\n")
    assert (outcome.unreadable, outcome.problems[0].line) == (True, 1)


def test_a_line_without_an_end_is_read_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("producer.table.lines.LONGEST_LEFT_OUT", 2 * LONGEST_LINE)
    outcome = checked(tmp_path, "image,prompt\na.png," + "x" * (4 * LONGEST_LINE) + "\nb.png,x\n")
    assert (outcome.unreadable, outcome.problems[0].line) == (True, 2)
