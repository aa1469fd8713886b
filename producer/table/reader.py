"""A CSV as records: encoding, delimiter, header, physical line numbers. Of rendering it knows only the column names.

The stream is read once, from start to end, so it may be a pipe.
"""

from __future__ import annotations

import codecs
import csv
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from io import TextIOWrapper
from itertools import chain
from typing import BinaryIO, NamedTuple, TextIO

from producer.table.columns import COLUMNS, REQUIRED, closest, meant

LONGEST_LINE = 2**20  # characters; a larger "line" means that the file is not a CSV, and must not fill the memory
LONGEST_SHOWN = 60  # characters of a cell
DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
BLANK = "".join(DELIMITERS) + ' "\r\n'  # a line of only these characters is not the header
UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
ZIP_MARK = "PK\x03\x04"
SAVE_AS = "save it as UTF-8 (in a spreadsheet: 'CSV UTF-8')"
UNDECODED = re.compile("[\udc80-\udcff]")  # what `surrogateescape` makes of bytes that are not UTF-8


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the physical line in the file (from 1), the column and cell if there is one, and what is wrong."""

    line: int
    column: str | None
    value: str | None
    message: str

    def sentence(self, file: str) -> str:
        """`jobs.csv:7: ddim_steps: '0' is out of range; allowed: a whole number from 1 to 999`."""
        column = f" {self.column}:" if self.column else ""
        value = f" {shown(self.value)}" if self.value is not None else ""
        return f"{file}:{self.line}:{column}{value} {self.message}"

    def reason(self) -> str:
        """The sentence without file and line, for the `reason` column of the rejected rows."""
        return self.sentence("").partition(": ")[2]

    def as_dict(self) -> dict[str, object]:
        """For JSON; a long cell is cut."""
        return asdict(self) | {"value": None if self.value is None else shortened(self.value)}


class CsvMistakes(Exception):
    """Mistakes that make a whole file unusable: its encoding, its header, its quotation marks."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)


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
def open_table(stream: BinaryIO) -> Iterator[Table]:
    """Read a CSV's header from a stream; the records follow as they are iterated.

    Raises:
        CsvMistakes: the stream is not a readable CSV, or its header is wrong; also while the records are iterated.
    """
    # Bytes that are not UTF-8 come through as surrogates, so that `_lines` can name the line and the byte.
    text = TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield _table(text)
    finally:
        text.detach()  # the stream belongs to the caller


def shown(value: str) -> str:
    """A cell in quotes, on one line, cut to a readable length."""
    return repr(shortened(value))


def shortened(value: str) -> str:
    """A cell cut to a readable length."""
    return value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 1] + "…"


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
    """Physical lines with their line ends; raises at the first one that cannot be part of a CSV."""
    number = 0
    while line := file.readline(LONGEST_LINE):
        number += 1
        message = _not_text(line, is_first=number == 1)
        if message is not None:
            raise CsvMistakes([Problem(number, None, None, message)])
        yield line


def _not_text(line: str, *, is_first: bool) -> str | None:
    """Why a line cannot be part of a CSV, or None."""
    if is_first and line.encode("utf-8", "surrogateescape").startswith(UTF16_MARKS):
        return f"the file is UTF-16 (a spreadsheet's 'Unicode text'); {SAVE_AS}"
    if is_first and line.startswith(ZIP_MARK):
        return "the file is a spreadsheet or zip archive, not a CSV; export it as CSV UTF-8"
    if "\0" in line:
        return "holds a NUL byte: this is no text file, or UTF-16 text"
    if not line.isascii() and UNDECODED.search(line):
        return _undecodable(line.encode("utf-8", "surrogateescape"))
    if len(line) == LONGEST_LINE and line[-1] not in "\r\n":
        return f"the line is longer than {LONGEST_LINE:,} characters: is this a CSV file?"
    return None


def _undecodable(line: bytes) -> str:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        byte = line[error.start]
        guess = line.decode("cp1252", errors="replace").strip()
        around = guess[max(0, error.start - 20) : error.start + 20]
        return f"byte 0x{byte:02X} is not UTF-8; as Windows-1252 the text would be {around!r}; {SAVE_AS}"
    return f"the file is not UTF-8; {SAVE_AS}"


def _records(lines: Iterator[str], delimiter: str, skipped_lines: int) -> Iterator[Record]:
    """All records that are not blank; the header is row 0. Blank ones are not counted, so they shift no row numbers."""
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
    """True also for `,,,,`, which spreadsheets write for a row that was cleared."""
    return not any(cell and not cell.isspace() for cell in cells)


def _quoting(error: csv.Error, first: int, last: int) -> Problem:
    """The csv module's error, for people. Reading stops there: it is unknown where the next row begins."""
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
    """The delimiter that splits the header into the most known columns; a comma in case of a tie."""

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
    if problems:  # the list is long: once, in the last sentence
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
