"""A CSV as records: encoding, delimiter, header, physical line numbers. Of rendering it knows only column names."""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import NamedTuple, TextIO

from producer.table.columns import COLUMNS, REQUIRED, closest, meant
from producer.table.problems import CsvMistakes, Problem, shown

LONGEST_LINE = 2**20  # characters; keeps a file that is no CSV out of memory
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
BLANK = "".join(DELIMITERS) + ' "\r\n'  # a line of these alone holds no header
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
SAVE_AS = "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"


class Record(NamedTuple):
    """One data row: the physical line it begins on, its number among the rows that are not blank, and its cells."""

    line: int
    row: int
    cells: list[str]


@dataclass(frozen=True)
class Table:
    """An opened CSV: its column names, remarks on how it was read, and its records, to be iterated once."""

    columns: tuple[str, ...]
    remarks: tuple[str, ...]
    records: Iterator[Record]


@contextmanager
def open_table(path: Path) -> Iterator[Table]:
    """Open a CSV and check its header.

    Raises:
        CsvMistakes: it is no CSV that can be read, or its header is wrong; also while the records are iterated.
        OSError: the file cannot be opened.
    """
    _refuse_utf16(path)
    with path.open(encoding="utf-8-sig", newline="") as file:
        try:
            yield _table(file)
        except UnicodeDecodeError as error:
            raise CsvMistakes([_undecodable(path)]) from error


def _table(file: TextIO) -> Table:
    lines = _lines(file)
    blank_lines = 0
    header_text = ""
    for header_text in lines:
        if header_text.strip(BLANK):
            break
        blank_lines += 1
    delimiter = _delimiter(header_text)
    records = _records(chain([header_text], lines), delimiter, blank_lines)
    header = next(records, None)
    if header is None:
        raise CsvMistakes([Problem(1, None, None, "the file is empty; its first line must name the columns")])
    columns = tuple(cell.strip() for cell in header.cells)
    problems = _header_problems(columns, header.line)
    if problems:
        raise CsvMistakes(problems)
    remarks = () if delimiter == "," else (f"its columns are separated by {DELIMITERS[delimiter]}",)
    return Table(columns, remarks, records)


def _lines(file: TextIO) -> Iterator[str]:
    """Physical lines with their ends; refuses what no CSV contains."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        if "\0" in line:
            raise CsvMistakes([Problem(number, None, None, "holds a NUL byte: this is no text file, or UTF-16 text")])
        if len(line) == LONGEST_LINE and line[-1] not in "\r\n":
            message = f"the line is longer than {LONGEST_LINE:,} characters: is this a CSV file?"
            raise CsvMistakes([Problem(number, None, None, message)])
        yield line


def _records(lines: Iterator[str], delimiter: str, skipped_lines: int) -> Iterator[Record]:
    """All records that are not blank, the header as row 0. Blank ones are not counted, so row numbers survive them."""
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    row = 0
    while True:
        line = skipped_lines + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise CsvMistakes([_quoting(error, line, skipped_lines + reader.line_num)]) from error
        if not _is_blank(cells):
            yield Record(line, row, cells)
            row += 1


def _is_blank(cells: Sequence[str]) -> bool:
    """Also `,,,,`, which spreadsheets write for a row that was cleared."""
    return not any(cell and not cell.isspace() for cell in cells)


def _quoting(error: csv.Error, first: int, last: int) -> Problem:
    """What the csv module says, for people; reading cannot go on, for nobody knows where the next row begins."""
    text = str(error)
    begun = f"in the row that begins on line {first}" if last > first else "in this row"
    if "unexpected end" in text:
        return Problem(first, None, None, "a quotation mark is opened in this row and never closed")
    if "field larger" in text:
        limit = csv.field_size_limit()
        return Problem(
            first, None, None, f"a cell is longer than {limit:,} characters: is a quotation mark not closed?"
        )
    if "expected after" in text:
        return Problem(
            last,
            None,
            None,
            f'{begun}, text follows a closing quotation mark; write "" for a quotation mark inside quotes '
            "(or one before it was never closed)",
        )
    return Problem(last, None, None, f"{begun}: {text}")


def _delimiter(header: str) -> str:
    """The one that splits the header into the most known columns; a comma where that does not decide."""

    def known(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"') for cell in header.split(delimiter)]
        return sum(cell in COLUMNS for cell in cells), len(cells)

    return max(DELIMITERS, key=known)


def _header_problems(columns: Sequence[str], line: int) -> list[Problem]:
    if not any(meant(column, likeness=0.75) for column in columns):
        message = f"is no header: the first line must name the columns, at least {' and '.join(REQUIRED)}"
        return [Problem(line, None, ", ".join(columns), message)]
    unknown = [(place, column) for place, column in enumerate(columns, 1) if column not in COLUMNS]
    problems = [_unknown(column, place, line) for place, column in unknown]
    if problems:  # once, behind the last: the list is long
        known = f"{problems[-1].message} (known columns: {', '.join(COLUMNS)})"
        problems[-1] = replace(problems[-1], message=known)
    for name in COLUMNS:
        places = [str(place) for place, column in enumerate(columns, 1) if column == name]
        if len(places) > 1:
            problems.append(Problem(line, name, None, f"the column is there {len(places)} times ({', '.join(places)})"))
    guessed = {meant(column) for _, column in unknown}
    missing = [name for name in REQUIRED if name not in columns and name not in guessed]
    return problems + [Problem(line, name, None, "the column is missing; every job needs it") for name in missing]


def _unknown(column: str, place: int, line: int) -> Problem:
    if not column:
        return Problem(line, None, None, f"column {place} has no name; is there a delimiter too many?")
    guess = meant(column)
    near = f"did you mean {guess!r}?" if guess else f"the closest known one is {closest(column)!r}"
    return Problem(line, None, None, f"unknown column {shown(column)}; {near}")


def _refuse_utf16(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith(UTF16_MARKS):
        raise CsvMistakes([Problem(1, None, None, f"the file is UTF-16 (a spreadsheet's 'Unicode text'); {SAVE_AS}")])
    if start.startswith(b"PK\x03\x04"):
        raise CsvMistakes(
            [Problem(1, None, None, "the file is a spreadsheet or zip archive, not a CSV; export it as CSV UTF-8")]
        )


def _undecodable(path: Path) -> Problem:
    """Where the file stops being UTF-8. Read again line by line: the fast reader decodes in blocks."""
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = line[error.start]
                guess = line.decode("cp1252", errors="replace").strip()
                around = guess[max(0, error.start - 20) : error.start + 20]
                message = f"byte 0x{byte:02X} is not UTF-8; as Windows-1252 the text would be {around!r}; {SAVE_AS}"
                return Problem(number, None, None, message)
    return Problem(1, None, None, f"the file is not UTF-8; {SAVE_AS}")
