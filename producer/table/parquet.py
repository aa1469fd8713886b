"""Parquet as records, read by batches of rows, so memory stays flat. pyarrow is imported when the first file is."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, BinaryIO

from producer.exits import CommandFailed, Exit
from producer.table.columns import COLUMNS, meant
from producer.table.problem import CsvMistakes, Problem
from producer.table.reader import KNOWN_COLUMNS, Record, Table, header_problems
from producer.table.typed_cells import cell_of

BATCH_ROWS = 1024
BUFFER_BYTES = 2**18  # of each column's data that is read at once, instead of all of a row group's
LONGEST_REASON = 200  # characters of what pyarrow says
INSTALL = (
    "reading Parquet needs pyarrow, which is not installed: pip install 'batch-renderer[parquet]' (or write the table "
    "as JSON Lines or CSV)"
)
INDEX = re.compile(r"__index_level_\d+__")  # how pandas keeps an index that has no name


@contextmanager
def parquet_table(stream: BinaryIO, *, given: Collection[str] = ()) -> Iterator[Table]:
    """Read a file's schema; the records follow as they are iterated. Rows are numbered from 1 by their position.

    Raises:
        CommandFailed: pyarrow is not installed.
        CsvMistakes: it is damaged or no Parquet, or its columns are wrong; also while the records are iterated.
    """
    pyarrow, parquet = _pyarrow()
    with _readable(pyarrow), parquet.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
        schema = file.schema_arrow
        names = [str(name) for name in schema.names]
        columns = tuple(name for name in names if not INDEX.fullmatch(name))
        problems = _name_problems(columns, given) or _type_problems(pyarrow, schema, columns)
        if problems:
            raise CsvMistakes([replace(problem, place="") for problem in problems])
        left_out = len(names) - len(columns)
        yield Table(columns, ["pandas' index is left out"] if left_out else [], _records(pyarrow, file, columns))


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise CommandFailed(Exit.USAGE, INSTALL) from error
    return pyarrow, pyarrow.parquet


@contextmanager
def _readable(pyarrow: Any) -> Iterator[None]:
    """Around every call of pyarrow's: what it says of a damaged file becomes a sentence."""
    try:
        yield
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the file system, not of the file
        reason = " ".join(str(error).split())[:LONGEST_REASON]
        raise CsvMistakes.of_file(f"is not a Parquet file, or is damaged: {reason}") from error


def _records(pyarrow: Any, file: Any, columns: tuple[str, ...]) -> Iterator[Record]:
    row = 0
    with _readable(pyarrow):
        for batch in file.iter_batches(batch_size=BATCH_ROWS, columns=list(columns), use_threads=False):
            problems: dict[int, list[Problem]] = {}
            cells = [_cells(name, _values(pyarrow, batch.column(name)), problems) for name in columns]
            for index, of_row in enumerate(zip(*cells, strict=True)):
                row += 1
                place = f"row {row}"
                wrong = tuple(replace(problem, line=row, place=place) for problem in problems.get(index, ()))
                yield Record(row, row, list(of_row), besides=wrong, place=place)


def _cells(name: str, values: list[Any], problems: dict[int, list[Problem]]) -> list[str]:
    """A column of a batch as cells; `problems` gets what is wrong, by the index in the batch."""
    known: dict[Any, str] = {None: ""}  # most cells of a column are alike
    cells = []
    for index, value in enumerate(values):
        cell = known.get(value)
        if cell is None:
            try:
                cell = known[value] = cell_of(value)
            except ValueError as error:
                problems.setdefault(index, []).append(Problem(0, name, None, str(error)))
                cell = ""
        cells.append(cell)
    return cells


def _values(pyarrow: Any, column: Any) -> list[Any]:
    """The values of a batch's column. Bytes are text: older writers do not mark text as such."""
    types = pyarrow.types
    if types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if _is_text(types, column.type) and not _is_view(column.type):
        column = column.cast("binary")  # text that is not UTF-8 is one row's problem
    values = column.to_pylist()
    if _is_text(types, column.type):
        return [value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value for value in values]
    if types.is_float16(column.type) or types.is_float32(column.type):
        return [None if value is None else _shortest(value, column.type) for value in values]
    return list(values)


def _shortest(value: float, kind: Any) -> float:
    """0.9 for what is 0.8999999761581421 as a double: the number with the fewest digits that the column cannot tell."""
    form = "e" if kind.bit_width == 16 else "f"
    if not math.isfinite(value):
        return value
    short = (float(f"{value:.{digits}g}") for digits in range(1, 10))
    return next((number for number in short if _is_the_same(number, value, form)), value)


def _is_the_same(one: float, other: float, form: str) -> bool:
    try:
        return struct.pack(form, one) == struct.pack(form, other)
    except OverflowError:  # rounded up beyond the largest
        return False


def _is_text(types: Any, kind: Any) -> bool:
    is_bytes = types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
    return bool(is_bytes or types.is_string(kind) or types.is_large_string(kind) or _is_view(kind))


def _is_view(kind: Any) -> bool:
    return str(kind) in ("string_view", "binary_view")


def _name_problems(columns: tuple[str, ...], given: Collection[str]) -> list[Problem]:
    if any(meant(column, likeness=0.75) for column in columns):
        return header_problems(columns, 0, given=given)
    shown = ", ".join(columns[:10])[:LONGEST_REASON]
    return [Problem(0, None, shown, f"are its columns, and none of them is a job's {KNOWN_COLUMNS}")]


def _type_problems(pyarrow: Any, schema: Any, columns: tuple[str, ...]) -> list[Problem]:
    problems = []
    for name in columns:
        kind = schema.field(name).type
        kind = kind.value_type if pyarrow.types.is_dictionary(kind) else kind
        if not _is_cell(pyarrow.types, kind):
            message = f"holds values of the type {str(kind)[:LONGEST_REASON]}; a column holds text, numbers or booleans"
            advice = ": write the pictures to files, and name those" if name in ("image", "control_image") else ""
            problems.append(Problem(0, name if name in COLUMNS else None, None, message + advice))
    return problems


def _is_cell(types: Any, kind: Any) -> bool:
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    return bool(is_number or types.is_boolean(kind) or types.is_null(kind) or _is_text(types, kind))
