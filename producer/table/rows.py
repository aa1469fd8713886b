"""One record of the CSV -> RenderParameters, or every problem in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from jobs.errors import InvalidJob
from jobs.job import PICTURES, RenderParameters
from jobs.prompt_kinds import EMPTY
from jobs.uri import resolve_image
from producer.table.columns import COLUMNS, Value
from producer.table.lines import UNDECODED
from producer.table.pictures import is_here
from producer.table.problem import Problem
from producer.table.reader import Record

# A relative path with nothing to resolve, unquote or quote. Most cells are like that, and `resolve_image` would take a
# third of the time of the check to give the same URI.
PLAIN_PATH = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*", re.ASCII)
QUOTED = re.compile(r"(['\"]).*\1", re.DOTALL)
SHORT = 250  # characters; a longer path may have a name that is too long


class RowChecker:
    """Turns records of one table into parameters.

    Relative image paths resolve against `base`, the CSV's folder; for a CSV in a bucket, that is the text
    `s3://bucket/folder/`. `defaults` are values for cells that are blank or missing, by column.
    """

    def __init__(
        self, columns: Sequence[str], base: Path | str, *, defaults: Mapping[str, Value] | None = None
    ) -> None:
        self._width = len(columns)
        self._columns = tuple(COLUMNS[name] for name in columns)
        self._defaults = dict(defaults or {})
        self._may_be_png = "quality" in self._defaults and ("format" in self._defaults or "format" in columns)
        self._base = base
        self._base_uri = base if isinstance(base, str) else base.absolute().as_uri().rstrip("/") + "/"
        self._short = SHORT if len(self._base_uri) < 3 * SHORT else 0

    def check(self, record: Record) -> RenderParameters | list[Problem]:
        """The row's parameters, or all of its problems. A blank or missing optional cell takes its default."""
        if record.mistakes or (record.undecoded and not self._names_a_file_here(record)):
            return [*record.mistakes, *record.undecoded]
        problems = [*record.besides, *self._surplus(record)]
        said: dict[str, Value] = {}
        for column, cell in zip(self._columns, record.cells, strict=False):
            if not cell or cell.isspace():
                continue
            try:
                said[column.name] = self._image(cell) if column.name in PICTURES else column.parse(cell)
            except (ValueError, InvalidJob) as error:
                problems.append(self._refused(record, column.name, cell, str(error)))
        try:
            parameters = RenderParameters.model_validate(self._with_defaults(said))
        except ValidationError as error:
            problems += self._invalid(record, error, {problem.column for problem in problems})
        return problems or parameters

    def _with_defaults(self, said: Mapping[str, Value]) -> dict[str, Value]:
        """The cells of a row over the defaults. The default quality is only for rows that can take one."""
        values: dict[str, Value] = {**self._defaults, **said}
        if self._may_be_png and "quality" not in said and values.get("format", "png") == "png":
            values.pop("quality")
        return values

    def _image(self, cell: str) -> str:
        if len(cell) < self._short and PLAIN_PATH.fullmatch(cell):
            return self._base_uri + cell
        return resolve_image(cell.strip(), self._base)

    def _names_a_file_here(self, record: Record) -> bool:
        """Whether bytes that are not UTF-8 are only in the names of pictures that exist, byte for byte."""
        cells = {column.name: cell for column, cell in zip(self._columns, record.cells, strict=False)}
        others = (cell for name, cell in cells.items() if name not in PICTURES)
        if UNDECODED.search("".join([*others, *record.cells[self._width :]])):
            return False
        named = [cell for name, cell in cells.items() if name in PICTURES and UNDECODED.search(cell)]
        try:
            return bool(named) and all(is_here(self._image(cell)) for cell in named)
        except InvalidJob:
            return False

    def _surplus(self, record: Record) -> list[Problem]:
        if len(record.cells) <= self._width or not any(map(str.strip, record.cells[self._width :])):
            return []  # nothing but trailing delimiters
        message = (
            f"the row has {len(record.cells)} cells, the header {self._width} columns; "
            "put quotation marks around a cell that contains the delimiter"
        )
        return [Problem(record.line, None, None, message)]

    def _refused(self, record: Record, name: str, cell: str, message: str) -> Problem:
        if name in PICTURES:
            return Problem(record.line, name, None, message)  # the message shows the URI without its secrets
        return Problem(record.line, name, cell, f"{message}; allowed: {COLUMNS[name].allowed}")

    def _invalid(self, record: Record, error: ValidationError, known: set[str | None]) -> list[Problem]:
        details: list[Any] = error.errors(include_url=False)
        return [self._problem(record, detail) for detail in details if not _is_of(known, detail)]

    def _problem(self, record: Record, detail: Any) -> Problem:
        if not detail["loc"]:  # a rule over several columns
            return Problem(record.line, None, None, str(detail["ctx"]["error"]))
        name = str(detail["loc"][0])
        if detail["type"] == "missing":
            none = f" (write {EMPTY} for none)" if name == "prompt" else ""
            return Problem(record.line, name, None, f"the cell is empty; every job needs one{none}")
        if detail["type"] == "string_too_long":
            message = f"has {len(detail['input']):,} characters; allowed: {COLUMNS[name].allowed}"
        else:
            message = f"{_what(detail)}; allowed: {COLUMNS[name].allowed}"
        shown = None if name in PICTURES else self._cell(record, name)  # a URI may hold a password or a signature
        return Problem(record.line, name, shown, message)

    def _cell(self, record: Record, name: str) -> str:
        """The cell as written, not as pydantic saw it."""
        return next(cell for column, cell in zip(self._columns, record.cells, strict=False) if column.name == name)


def _is_of(columns: set[str | None], detail: Any) -> bool:
    """Whether a problem is of one of these columns: in its cell, or in a rule over several, which names them.

    What such a rule quotes are words of a prompt.
    """
    named = detail["loc"] or re.findall(r"\w+", QUOTED.sub("", str(detail["ctx"]["error"])))
    return not columns.isdisjoint(named)


def _what(detail: Any) -> str:
    if detail["type"] in ("greater_than_equal", "less_than_equal"):
        return "is out of range"
    if detail["type"] == "multiple_of":
        return f"is not a multiple of {detail['ctx']['multiple_of']:g}"
    return "is not allowed"
