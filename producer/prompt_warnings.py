"""What the prompts of a file are warned of, as counts: one sentence a kind, whatever the number of rows."""

from __future__ import annotations

from dataclasses import dataclass, field

from jobs.job import RenderParameters
from jobs.prompt_kinds import PromptKind
from jobs.prompts import remarks_of
from producer.console import count


@dataclass(slots=True)
class PromptCount:
    """The rows that have a kind of text, the first line (from 1) that does, and the text there."""

    kind: PromptKind
    first_line: int
    example: str
    rows: int = 0
    last_line: int = 0

    def sentence(self) -> str:
        """`12 rows have prompt weights such as '(cat:1.3)', which are taken literally; first in line 3.` And advice."""
        have = "has" if self.rows == 1 else "have"
        kind = self.kind
        advice = kind.advice[0].upper() + kind.advice[1:]
        where = f"first in line {self.first_line}" if self.rows > 1 else f"in line {self.first_line}"
        return f"{count(self.rows, 'row')} {have} {kind.name} such as {self.example}, {kind.fate}; {where}. {advice}."

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"kind": self.kind.name, "rows": self.rows, "first_line": self.first_line, "example": self.example}


@dataclass
class PromptWarnings:
    """Counts rows by kind; a row counts once for each kind that one of its prompts has."""

    counts: dict[str, PromptCount] = field(default_factory=dict)

    def look_at(self, parameters: RenderParameters, line: int) -> None:
        """Count one row, which begins on this line of the file."""
        for _, (kind, example) in remarks_of(parameters):
            known = self.counts.get(kind.name)
            if known is None:
                known = self.counts[kind.name] = PromptCount(kind, line, example)
            if known.last_line != line:
                known.rows, known.last_line = known.rows + 1, line

    def sentences(self) -> list[str]:
        """One for each kind, in the order in which they were found."""
        return [known.sentence() for known in self.counts.values()]

    def as_list(self) -> list[dict[str, object]]:
        """For JSON."""
        return [known.as_dict() for known in self.counts.values()]
