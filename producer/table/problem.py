"""A mistake in a table, as people and programs read it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from jobs.redaction import with_redacted_urls

LONGEST_SHOWN = 60  # characters of a cell


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: the physical line in the file (from 1), the column and cell if there is one, and what is wrong.

    `place` stands for the line in a source without lines: `row 7`, a picture's name, or "" for the file as a whole.
    """

    line: int
    column: str | None
    value: str | None
    message: str
    place: str | None = None

    def sentence(self, file: str) -> str:
        """`jobs.csv:7: ddim_steps: '0' is out of range; allowed: a whole number from 1 to 999`."""
        if self.place is None:
            return f"{file}:{self.line}: {self.reason()}"
        return f"{file}: {self.place}: {self.reason()}" if self.place else f"{file}: {self.reason()}"

    def reason(self) -> str:
        """The sentence without file and line, for the `reason` column of the rejected rows."""
        column = f"{self.column}: " if self.column else ""
        value = f"{shown(self.value)} " if self.value is not None else ""
        return f"{column}{value}{self.message}"

    def as_dict(self) -> dict[str, object]:
        """For JSON; a long cell is cut."""
        record = asdict(self) | {"value": None if self.value is None else shortened(self.value)}
        place = record.pop("place")
        return record if place is None else record | {"line": None, "place": place}


class CsvMistakes(Exception):
    """Mistakes that make a whole file unusable: its encoding, its header, its quotation marks, its damage."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = tuple(problems)

    @classmethod
    def of_file(cls, message: str) -> CsvMistakes:
        """One mistake that is in no line."""
        return cls([Problem(0, None, None, message, place="")])


def shown(value: str) -> str:
    """A cell in quotes, on one line, cut to a readable length."""
    return repr(shortened(value))


def shortened(value: str) -> str:
    """A cell cut to a readable length, without the secrets of URLs, which may be in any column."""
    value = with_redacted_urls(value)
    return value if len(value) <= LONGEST_SHOWN else value[: LONGEST_SHOWN - 1] + "…"


def has_secrets(text: str) -> bool:
    """Whether a part of a line may be one of a URL's secret, so that no part is to be shown."""
    return with_redacted_urls(text) != text
