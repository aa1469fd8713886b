"""What is wrong with a CSV: one Problem a mistake, printed as a sentence that a person can act on."""

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
        """The same without file and line, for the rejected rows' own column."""
        return self.sentence("").partition(": ")[2]

    def as_dict(self) -> dict[str, object]:
        """For JSON; a long cell is cut."""
        return asdict(self) | {"value": None if self.value is None else shortened(self.value)}


def shown(value: str) -> str:
    """A cell in quotes, on one line, cut to a readable length."""
    return repr(shortened(value))


def shortened(value: str) -> str:
    """A cell cut to a readable length."""
    return value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 1] + "…"


class CsvMistakes(Exception):
    """Mistakes that make a whole file unusable: its encoding, its header, its quotation marks."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)
