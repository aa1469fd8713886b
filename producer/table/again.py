"""The pictures of a folder that say how they were made, one record each, to be rendered once more."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from jobs.infotext import Infotext, read_infotext
from producer.table.columns import COLUMNS
from producer.table.folder import Listing, printable
from producer.table.made_picture import MadePicture, of_infotext, ours
from producer.table.picture_texts import DamagedText, picture_texts
from producer.table.problem import Problem, shown
from producer.table.reader import Record, Table
from producer.table.typed_cells import cells_of, spoilt

NAMES = tuple(COLUMNS)
SHOWN = 5  # kinds in a remark
# The extension Dynamic Prompts adds what it made the prompts of, behind the line of settings.
TEMPLATES = re.compile(r"\n(?:Negative )?Template:")


@dataclass
class _Seen:
    """What is counted while the pictures are read, for the remarks at the end."""

    silent: int = 0  # pictures without parameters
    first_silent: str = ""
    foreign: int = 0  # pictures of other tools
    not_done: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)

    def remarks(self) -> Iterator[str]:
        if self.silent:
            pictures = "1 picture says" if self.silent == 1 else f"{self.silent:,} pictures say"
            yield f"{pictures} nothing of parameters and {_were(self.silent)} left out (first: {self.first_silent})"
        if self.foreign:
            names = "picture of another tool names" if self.foreign == 1 else "pictures of other tools name"
            yield f"{self.foreign:,} {names} no source, so the picture itself is the input"
        if self.not_done:
            yield f"these are not done here, and left out: {_counted(self.not_done)}"
        if self.models:
            yield f"models that other tools name are not looked for; --model names ours: {_counted(self.models)}"


def again_table(pictures: Listing, *, given: Collection[str] = ()) -> Table:
    """The records of a folder's pictures. `given`: columns that options say. Remarks are complete at the end."""
    remarks = [pictures.remark] if pictures.remark else []
    return Table(NAMES, remarks, _records(pictures, given, remarks))


def _records(pictures: Listing, given: Collection[str], remarks: list[str]) -> Iterator[Record]:
    seen, row = _Seen(), 0
    for name in pictures.names:
        place = printable(name)
        try:
            made = _made(pictures, name, given, seen)
        except (DamagedText, OSError) as error:
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error)
            row += 1
            yield spoilt(row, row, f"the picture cannot be read: {reason}", place=place)
            continue
        if made is None:
            seen.silent, seen.first_silent = seen.silent + 1, seen.first_silent or place
            continue
        row += 1
        yield _record(made, place, row)
    remarks += seen.remarks()


def _made(pictures: Listing, name: str, given: Collection[str], seen: _Seen) -> MadePicture | None:
    texts = picture_texts(pictures.folder / name)
    if texts.render is not None:
        return ours(texts.render)
    if texts.parameters is None or not texts.parameters.strip():
        return None
    made = of_infotext(_read(texts.parameters), image=pictures.uri(name), given=given)
    seen.foreign += not made.problems
    seen.not_done.update(made.not_done)
    seen.models.update([made.model] if made.model else [])
    return made


def _read(text: str) -> Infotext:
    """Infotext, without the templates of its prompts where there are any."""
    before = read_infotext(TEMPLATES.split(text, maxsplit=1)[0])
    return before if before.settings else read_infotext(text)


def _record(made: MadePicture, place: str, row: int) -> Record:
    if made.problems:
        mistakes = tuple(Problem(row, column, None, message, place) for column, message in made.problems)
        return Record(row, row, [], mistakes, place=place)
    unknown = sorted(made.values.keys() - COLUMNS.keys())
    cells, problems = cells_of(made.values, NAMES, line=row, place=place)
    if unknown:
        message = f"its parameters have {shown(unknown[0])}, which this version does not know; update it"
        problems.append(Problem(row, None, None, message, place))
    return Record(row, row, cells, besides=tuple(problems), place=place)


def _counted(kinds: Counter[str]) -> str:
    parts = [f"{shown(kind)[1:-1]} ({number:,})" for kind, number in kinds.most_common(SHOWN)]
    more = len(kinds) - len(parts)
    return ", ".join(parts) + (f" and {more:,} more" if more else "")


def _were(number: int) -> str:
    return "was" if number == 1 else "were"
