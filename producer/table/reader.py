"""A CSV as records: encoding, delimiter, header, physical line numbers. It knows only the column names.

The stream is read once, from start to end, so it may be a pipe.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import TextIOWrapper
from typing import BinaryIO, NamedTuple

from producer.table.columns import COLUMNS, REQUIRED, closest, meant, without_column
from producer.table.lines import LONGEST_LINE, Lines
from producer.table.problem import CsvMistakes, Problem, shown

__all__ = ["LONGEST_LINE", "CsvMistakes", "Problem", "Record", "Table", "open_table"]

DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
BLANK = "".join(DELIMITERS) + ' "\r\n'  # a line of only these characters is not the header
SEPARATOR_LINE = re.compile(r'"?sep=(.?)"?[,;\t]*', re.IGNORECASE)  # how spreadsheets name the delimiter
NO_SEPARATORS = "\"' "
SPACE_BEFORE_QUOTE = re.compile(r' +"')
UNCLOSED = "unexpected end"  # what the csv module says at the end of the file; it may have been cut short
LONGEST_CELL = 2**17  # characters; a row with a longer one is bad
LONGEST_KEPT = 10_000  # characters of a row that cannot be split
KNOWN_COLUMNS = f"(known columns: {', '.join(COLUMNS)})"
SPACES_LEFT_OUT = "cells with a space before their quotation mark were read without the space, from line "


# A longer cell of several lines ends the file: its quotation mark may never be closed. The module's own limit would end
# it for a cell that is closed.
csv.field_size_limit(LONGEST_LINE)


class Record(NamedTuple):
    """One data row: the physical line it begins on, its number among the rows that are not blank, and its cells.

    `place` stands for the line if a source has none, as Problem.place does. `besides`: problems that no cell shows.
    """

    line: int
    row: int
    cells: list[str]
    mistakes: tuple[Problem, ...] = ()  # of its lines: the cells are not what was meant
    undecoded: tuple[Problem, ...] = ()  # likewise: the cells have surrogates in place of bytes that are not UTF-8
    place: str | None = None
    besides: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Table:
    """An opened source: its column names, its records, to be iterated once, and remarks on how they were read.

    The remarks are complete when the last record was read.
    """

    columns: tuple[str, ...]
    remarks: list[str]
    records: Iterator[Record]


@contextmanager
def open_table(stream: BinaryIO, *, delimiter: str | None = None, given: Collection[str] = ()) -> Iterator[Table]:
    """Read a CSV's header from a stream; the records follow as they are iterated.

    Without a `delimiter`, the header says it. The columns `given` may be missing: the command line has their value.

    Raises:
        CsvMistakes: the stream is not a readable CSV, or its header is wrong; also while the records are iterated.
    """
    # Bytes that are not UTF-8 come through as surrogates, so that `Lines` can name the line and the byte.
    text = TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="")
    try:
        yield _table(Lines(text), delimiter, given)
    finally:
        text.detach()  # the stream belongs to the caller


def _table(lines: Lines, delimiter: str | None, given: Collection[str]) -> Table:
    delimiter, remarks = _delimiter_of(lines) if delimiter is None else (delimiter, list[str]())
    records = _records(lines, delimiter, remarks)
    header = next(records, None)
    if header is None:
        raise CsvMistakes([Problem(1, None, None, "the file is empty; its first line must name the columns")])
    columns = tuple(cell.strip() for cell in header.cells)
    if delimiter == "\t" and len(columns) == 1 and {",", ";"} & set(columns[0]):
        message = "its columns are not separated by tabs; give --input-format csv, or call it .csv"
        raise CsvMistakes([Problem(header.line, None, None, message)])
    problems = [*header.mistakes, *header.undecoded] or header_problems(columns, header.line, given=given)
    if problems:
        raise CsvMistakes(problems)
    return Table(columns, remarks, records)


def _delimiter_of(lines: Lines) -> tuple[str, list[str]]:
    """What separates the cells, with a remark on it unless it is a comma. The next line is the header's then."""
    for line in lines:
        if not line.strip(BLANK):
            continue
        if match := SEPARATOR_LINE.fullmatch(line.rstrip("\r\n")):
            delimiter = _named(match[1], lines.number)
        else:
            delimiter = _delimiter(line)
            lines.put_back(line)
        name = DELIMITERS.get(delimiter, repr(delimiter))
        return delimiter, [] if delimiter == "," else [f"its columns are separated by {name}"]
    return ",", []


def _named(separator: str, line: int) -> str:
    is_odd = separator.isalnum() or separator in NO_SEPARATORS or not (separator.isprintable() or separator == "\t")
    if not separator or is_odd:
        message = "the line `sep=` must name the character that separates the columns, as in sep=; (or leave it out)"
        raise CsvMistakes([Problem(line, None, None, message)])
    return separator


def _records(lines: Lines, delimiter: str, remarks: list[str]) -> Iterator[Record]:
    """All records that are not blank; the header is row 0. Blank ones are not counted, so they shift no row numbers.

    A record that cannot be split into cells comes with its mistakes if it is one line, because the next row begins on
    the next line. If it has several lines, the start of the next row is unknown.
    """
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    row = 0
    while True:
        first = lines.number + 1
        lines.begin_record()
        try:
            cells = _without_spaces(next(reader), lines, delimiter, remarks)
        except StopIteration:
            return
        except csv.Error as error:
            problem = _quoting(error, first, lines.number)
            if lines.number > first or UNCLOSED in str(error):
                raise CsvMistakes([problem]) from error
            cells = ["".join(lines.of_record).rstrip("\r\n")[:LONGEST_KEPT]]
            lines.damage.append(problem)
        if any(len(cell) > LONGEST_CELL for cell in cells):
            lines.damage.append(_too_long(first, LONGEST_CELL))
            cells = [cell[:LONGEST_KEPT] for cell in cells]
        if lines.damage or not _is_blank(cells):
            yield Record(first, row, cells, tuple(lines.damage), tuple(lines.undecoded))
            row += 1


def _without_spaces(cells: list[str], lines: Lines, delimiter: str, remarks: list[str]) -> list[str]:
    """Read `a.png, "a cat, sitting"` as people mean it, who write a space behind each comma.

    Where that cannot be meant, as in `a.png, "Stop" on a sign`, the cells stay as they are.
    """
    if not any('"' in line for line in lines.of_record) or not any(map(SPACE_BEFORE_QUOTE.match, cells)):
        return cells
    try:
        (meant,) = csv.reader(lines.of_record, delimiter=delimiter, strict=True, skipinitialspace=True)
    except (csv.Error, ValueError):
        if any(cell.count('"') % 2 for cell in cells if SPACE_BEFORE_QUOTE.match(cell)):
            message = (
                "a space stands before a quotation mark, so the cell is not read as a quoted one; remove the space, or "
                'put the whole cell into quotation marks and write "" for one inside'
            )
            lines.damage.append(Problem(lines.number, None, None, message))
        return cells
    if not any(remark.startswith(SPACES_LEFT_OUT) for remark in remarks):
        remarks.append(f"{SPACES_LEFT_OUT}{lines.number}")
    return meant


def _is_blank(cells: Sequence[str]) -> bool:
    """True also for `,,,,`, which spreadsheets write for a row that was cleared."""
    return not any(cell and not cell.isspace() for cell in cells)


def _quoting(error: csv.Error, first: int, last: int) -> Problem:
    """The csv module's error, for people. Reading stops there: it is unknown where the next row begins."""
    text = str(error)
    begun = f"in the row that begins on line {first}" if last > first else "in this row"
    if UNCLOSED in text:
        return Problem(first, None, None, "a quotation mark is opened in this row and never closed")
    if "field larger" in text:
        return _too_long(first, LONGEST_LINE)
    if "expected after" in text:
        return Problem(
            last,
            None,
            None,
            f'{begun}, text follows a closing quotation mark; write "" for a quotation mark inside quotes '
            "(or one before it was never closed)",
        )
    return Problem(last, None, None, f"{begun}: {text}")


def _too_long(line: int, limit: int) -> Problem:
    return Problem(line, None, None, f"a cell is longer than {limit:,} characters: is a quotation mark not closed?")


def _delimiter(header: str) -> str:
    """The delimiter that splits the header into the most known columns; a comma in case of a tie."""

    def known(delimiter: str) -> tuple[int, int]:
        cells = [cell.strip().strip('"') for cell in header.split(delimiter)]
        return sum(cell in COLUMNS for cell in cells), len(cells)

    return max(DELIMITERS, key=known)


def header_problems(columns: Sequence[str], line: int, *, given: Collection[str] = ()) -> list[Problem]:
    """What is wrong with the names of the columns. Those that are `given` by options may be missing."""
    if not any(meant(column, likeness=0.75) for column in columns):
        message = f"is not a header: the first line must name the columns, at least {' and '.join(REQUIRED)}"
        return [Problem(line, None, ", ".join(columns), message)]
    unknown = [(place, column) for place, column in enumerate(columns, 1) if column not in COLUMNS]
    problems = [unknown_column(column, line, place=place) for place, column in unknown]
    if problems:  # the list is long: once, in the last sentence
        problems[-1] = replace(problems[-1], message=f"{problems[-1].message} {KNOWN_COLUMNS}")
    for name in COLUMNS:
        places = [str(place) for place, column in enumerate(columns, 1) if column == name]
        if len(places) > 1:
            problems.append(Problem(line, name, None, f"the column is there {len(places)} times ({', '.join(places)})"))
    guessed = {meant(column) for _, column in unknown}
    missing = [name for name in REQUIRED if name not in {*columns, *guessed, *given}]
    return problems + [Problem(line, name, None, "the column is missing; every job needs it") for name in missing]


def unknown_column(column: str, line: int, *, place: int) -> Problem:
    """What is said of one: the column that was meant. `place`: the number of the column, from 1."""
    if not column:
        return Problem(line, None, None, f"column {place} has no name; is there a delimiter too many?")
    if (reason := without_column(column)) is not None:
        return Problem(line, None, None, f"unknown column {shown(column)}; it has no counterpart here: {reason}")
    guess = meant(column)
    near = f"did you mean {guess!r}?" if guess else f"the closest known one is {closest(column)!r}"
    return Problem(line, None, None, f"unknown column {shown(column)}; {near}")
