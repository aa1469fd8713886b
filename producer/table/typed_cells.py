"""Typed values, as JSON and Parquet have them, as the cells that a CSV would have: the same checks read both."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal

from producer.table.problem import Problem
from producer.table.reader import LONGEST_CELL, LONGEST_KEPT, Record

ALLOWED = "a cell is text, a number, true, false or null"
LONGEST_DECIMAL = 60  # digits; one with an exponent of a million would be written out


def cell_of(value: object) -> str:
    """Text as it is, `true` and `false`, numbers with all digits that they need; None is an empty cell.

    Raises:
        ValueError: no cell can hold it; the message goes on with what the value is.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"is {value}, which is not a number; leave the cell empty (null) for its default")
        return repr(value)
    if isinstance(value, Decimal):
        return _decimal(value)
    raise ValueError(f"holds {_kind(value)}; {ALLOWED}")


def cells_of(
    values: Mapping[str, object], columns: tuple[str, ...], *, line: int, place: str | None = None
) -> tuple[list[str], list[Problem]]:
    """The cells of a row, in the order of the columns, and what is wrong with those that cannot be cells."""
    cells: list[str] = []
    problems: list[Problem] = []
    for column in columns:
        try:
            cells.append(cell_of(values.get(column)))
        except ValueError as error:
            cells.append("")
            problems.append(Problem(line, column, None, str(error), place))
    return cells, problems


def spoilt(line: int, row: int, message: str, *, text: str = "", place: str | None = None) -> Record:
    """A record that could not be read. `text` is what stands there, for the rejected rows."""
    return Record(line, row, [text[:LONGEST_KEPT]], (Problem(line, None, None, message, place),), place=place)


def _text(value: str) -> str:
    if len(value) > LONGEST_CELL:
        raise ValueError(f"has {len(value):,} characters; a cell has at most {LONGEST_CELL:,}")
    if "\0" in value:
        raise ValueError("holds a NUL character; remove it")
    if not value.isascii() and any("\ud800" <= char <= "\udfff" for char in value):
        raise ValueError("holds bytes that are not UTF-8, or half a character (a lone surrogate); write it anew")
    return value


def _decimal(value: Decimal) -> str:
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        raise ValueError(f"is {value}, which is not a number; leave the cell empty (null) for its default")
    if len(digits) + abs(exponent) > LONGEST_DECIMAL:
        raise ValueError("is a decimal number of too many digits")
    return format(value, "f")


def _kind(value: object) -> str:
    names: dict[type[object], str] = {dict: "an object", list: "a list", tuple: "a list", bytes: "bytes"}
    return names.get(type(value), f"a value of the type {type(value).__name__}")
