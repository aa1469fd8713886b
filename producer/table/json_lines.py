"""JSON Lines as records: one object a line, whose keys are the columns. Rows may have different keys."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any, BinaryIO

from producer.table.columns import COLUMNS
from producer.table.lines import LONGEST_LEFT_OUT, undecodable
from producer.table.problem import CsvMistakes, Problem, has_secrets, shown
from producer.table.reader import KNOWN_COLUMNS, Record, Table, unknown_column
from producer.table.typed_cells import cells_of, spoilt

LONGEST_LINE = 2**20  # bytes of a line that is read; a row with a longer one is bad
LONGEST_KEY = 100  # characters of an unknown one: the closest column is looked for
NAMES = tuple(COLUMNS)
ONE_OBJECT = 'write one object a line, as in {"image": "a.png", "prompt": "a house", "seed": 5}'


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all of its keys, also those that it has twice."""


class _NoNumber(ValueError):
    """NaN and Infinity, which Python reads and JSON does not have."""


def json_lines_table(stream: BinaryIO) -> Table:
    """The records of a stream of bytes.

    Raises:
        CsvMistakes: while the records are iterated: a line is too long for JSON Lines.
    """
    return Table(NAMES, [], _records(stream))


def _records(stream: BinaryIO) -> Iterator[Record]:
    """Blank lines are skipped and do not shift row numbers."""
    row, is_told = 0, False
    for number, raw in enumerate(_lines(stream), 1):
        line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
        if not line.strip():
            continue
        row += 1
        record = _record(line, number, row)
        if record.besides and not is_told:  # the list of columns is long: once is enough
            record, is_told = _with_known_columns(record)
        yield record


def _lines(stream: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends; of one that is too long, one byte more than is allowed."""
    number = 0
    while line := stream.readline(LONGEST_LINE + 1):
        number += 1
        is_cut = len(line) > LONGEST_LINE and not line.endswith(b"\n")
        yield line if is_cut else line.rstrip(b"\r\n")
        left_out = 0
        while is_cut and left_out < LONGEST_LEFT_OUT and (piece := stream.readline(LONGEST_LINE)):
            left_out += len(piece)
            is_cut = not piece.endswith(b"\n")
        if left_out >= LONGEST_LEFT_OUT:
            message = f"the line is longer than {LONGEST_LEFT_OUT:,} bytes: is this a JSON Lines file? {ONE_OBJECT}"
            raise CsvMistakes([Problem(number, None, None, message)])


def _record(line: bytes, number: int, row: int) -> Record:
    text = line.decode("utf-8", "surrogateescape")  # a rejected row is written as it was
    if len(line) > LONGEST_LINE:
        return spoilt(number, row, f"the line is longer than {LONGEST_LINE:,} bytes", text=text)
    try:
        value = _decoder.decode(line.decode("utf-8"))
    except UnicodeDecodeError:
        return spoilt(number, row, undecodable(line), text=text)
    except json.JSONDecodeError as error:
        return spoilt(number, row, _no_json(error), text=text)
    except (RecursionError, _NoNumber) as error:
        message = str(error) if isinstance(error, _NoNumber) else f"is nested too deeply; {ONE_OBJECT}"
        return spoilt(number, row, message, text=text)
    if not isinstance(value, _Pairs):
        return spoilt(number, row, f"the line is not a JSON object; {ONE_OBJECT}", text=text)
    return _row(value, number, row)


def _row(pairs: _Pairs, number: int, row: int) -> Record:
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    for place, (key, value) in enumerate(pairs, 1):
        name = key.strip()
        if name not in COLUMNS:
            problems.append(unknown_column(_printable(name[:LONGEST_KEY]), number, place=place))
        elif name in values:
            problems.append(Problem(number, name, None, "the key is there more than once in this object"))
        values[name] = dict(value) if isinstance(value, _Pairs) else value
    cells, wrong = cells_of(values, NAMES, line=number)
    return Record(number, row, cells, besides=(*problems, *wrong))


def _with_known_columns(record: Record) -> tuple[Record, bool]:
    """The record, with the list of columns behind the first that is unknown, if one is."""
    problems = list(record.besides)
    for index, problem in enumerate(problems):
        if problem.message.startswith("unknown column"):
            message = f"{problem.message} {KNOWN_COLUMNS}"
            problems[index] = Problem(problem.line, problem.column, problem.value, message)
            return record._replace(besides=tuple(problems)), True
    return record, False


def _no_json(error: json.JSONDecodeError) -> str:
    if error.pos >= len(error.doc.rstrip()) or error.msg.startswith("Unterminated"):
        return f"the line ends in the middle of its JSON; each row must be on one line: {ONE_OBJECT}"
    message = f"is not JSON: {error.msg} at character {error.pos + 1:,}"
    around = error.doc[max(0, error.pos - 10) : error.pos + 30]
    return message if has_secrets(error.doc.replace("\\/", "/")) else f"{message}, near {shown(around)}"


def _printable(key: str) -> str:
    return key.encode("utf-8", "replace").decode()  # JSON can write half a surrogate pair


def _no_number(text: str) -> Any:
    raise _NoNumber(f"{text} is not JSON; write null for a value that is missing")


def _whole_number(text: str) -> Any:
    """Python refuses to read thousands of digits; as text they are refused with a sentence."""
    return int(text) if len(text) < 20 else text


_decoder = json.JSONDecoder(object_pairs_hook=_Pairs, parse_constant=_no_number, parse_int=_whole_number)
