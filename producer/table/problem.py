"""A mistake in a CSV, as people and programs read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

LONGEST_SHOWN = 60  # characters of a cell


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


def shown(value: str) -> str:
    """A cell in quotes, on one line, cut to a readable length."""
    return repr(shortened(value))


def shortened(value: str) -> str:
    """A cell cut to a readable length."""
    return value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 1] + "…"
