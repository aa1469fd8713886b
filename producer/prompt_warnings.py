"""What the prompts of a file are warned of: one sentence a column and kind, whatever the number of rows.

A prompt that an option sets is warned of once, by the option's name, and not for the rows that take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jobs.job import RenderParameters
from jobs.prompt_kinds import PromptKind
from jobs.prompts import LITERAL, PromptReading, PromptRemark, prompt_remarks, remarks_of
from producer.console import count
from producer.row_defaults import option


@dataclass(slots=True)
class PromptCount:
    """The rows that have a kind of text in a column, the first line (from 1) that does, and the text there.

    `first_place` is what stands for the line in a source without lines, as Problem.place does.
    """

    column: str
    kind: PromptKind
    first_line: int
    example: str
    first_place: str | None = None
    rows: int = 0

    def sentence(self) -> str:
        """`n_prompt of 12 rows has ... such as '(cat:1.3)', which are taken literally; first in line 3.` And advice."""
        where = "in" if self.rows == 1 else "first in"
        place = f"line {self.first_line}" if self.first_place is None else self.first_place
        whose = f"{self.column} of {count(self.rows, 'row')}"
        return f"{_found(whose, self.kind, self.example)}; {where} {place}. {_advice(self.kind)}"

    def as_dict(self) -> dict[str, object]:
        """The warning as JSON output has it."""
        where: dict[str, object] = {"rows": self.rows, "first_line": self.first_line}
        if self.first_place is not None:
            where |= {"first_line": None, "first_place": self.first_place}
        return {"column": self.column, "kind": self.kind.name, **where, "example": self.example}


@dataclass
class PromptWarnings:
    """Counts rows by column and kind. `options` are prompts that the command line set, by column.

    `reading` is how the command line has prompts read.
    """

    options: Mapping[str, str] = field(default_factory=dict)
    reading: PromptReading = LITERAL
    counts: dict[tuple[str, str], PromptCount] = field(default_factory=dict)

    def look_at(self, parameters: RenderParameters, line: int, *, place: str | None = None) -> None:
        """Count one row, which begins on this line of the file, or is at this place."""
        for column, (kind, example) in remarks_of(parameters):
            if getattr(parameters, column) == self.options.get(column) and PromptReading.of(parameters) == self.reading:
                continue
            known = self.counts.setdefault((column, kind.name), PromptCount(column, kind, line, example, place))
            known.rows += 1

    def sentences(self) -> list[str]:
        """Those of options, then one for each column and kind, in the order in which they were found."""
        of_options = [
            f"{_found(option(column), kind, example)}. {_advice(kind)}" for column, kind, example in self._of_options()
        ]
        return of_options + [known.sentence() for known in self.counts.values()]

    def as_list(self) -> list[dict[str, object]]:
        """The warning as JSON output has it."""
        of_options: list[dict[str, object]] = [
            {"option": option(column), "kind": kind.name, "example": example}
            for column, kind, example in self._of_options()
        ]
        return [*of_options, *(known.as_dict() for known in self.counts.values())]

    def _of_options(self) -> list[tuple[str, PromptKind, str]]:
        return [(column, *remark) for column, text in self.options.items() for remark in self._remarks(text)]

    def _remarks(self, text: str) -> tuple[PromptRemark, ...]:
        try:
            return prompt_remarks(text, self.reading)
        except ValueError:  # it is an error in each row that takes it
            return ()


def _found(whose: str, kind: PromptKind, example: str) -> str:
    return f"{whose} has {kind.name} such as {example}, {kind.fate}"


def _advice(kind: PromptKind) -> str:
    return f"{kind.advice[0].upper()}{kind.advice[1:]}."
