"""Where subjects come from: a CSV of pictures and prompts, or none."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from engines.errors import ModelRefused, unreadable_is_refused
from engines.files import file_sha256
from engines.manifest import BUILT_IN_SUBJECTS, json_key

if TYPE_CHECKING:
    from engines.sampler.subjects import Subject

# The subjects that are drawn by default, and the most rows of a CSV that are read.
BUILT_IN, MOST_ROWS = 9, 64
LONGEST_CELL = 131_072  # characters, as many as csv takes by itself
COLUMNS = ("image", "prompt")
EMPTY = "<empty>"  # a cell that is an empty text, as in the files that are submitted: an empty cell takes the default
LONGEST_NAME = 300  # characters of a path in a sentence
SMALL = 64  # pixels: pictures are shrunk to it to see whether they can be read


@dataclass(frozen=True)
class SubjectSource:
    """Where subjects come from: a CSV with the columns image and prompt, or None for random shapes."""

    path: Path | None = None

    @property
    def digest(self) -> str:
        """A digest of the CSV and of the pictures that it names.

        Raises:
            ModelRefused: as `subjects`.
        """
        if self.path is None:
            return json_key(BUILT_IN_SUBJECTS, BUILT_IN)
        with unreadable_is_refused():
            pictures = [file_sha256(picture) for picture, _, _ in _rows(self.path)]
            return json_key(file_sha256(self.path), pictures)

    def check(self) -> None:
        """Read every picture, before a build takes minutes.

        Raises:
            ModelRefused: as `subjects`.
        """
        if self.path is not None:
            self.subjects(SMALL, SMALL)

    @property
    def text(self) -> str:
        """For manifests: the CSV's path, from any folder, or what stands for it."""
        return BUILT_IN_SUBJECTS if self.path is None else str(self.path.absolute())

    def subjects(self, height: int, width: int) -> list[Subject]:
        """The subjects at one size in pixels.

        Raises:
            ModelRefused: the CSV or a picture cannot be read.
        """
        from engines.sampler.subjects import NEGATIVE, Subject, built_in, edges_of

        if self.path is None:
            return [built_in(height, width, seed) for seed in range(BUILT_IN)]
        rows = enumerate(_rows(self.path))
        return [
            Subject(prompt, edges_of(picture, height, width), seed, NEGATIVE if negative is None else negative)
            for seed, (picture, prompt, negative) in rows
        ]


def _rows(path: Path) -> list[tuple[Path, str, str | None]]:
    """Picture, prompt and negative prompt (None: the default) of the first rows; pictures are files of this machine."""
    columns, rows = _read(path)
    missing = [name for name in COLUMNS if name not in columns]
    if missing or not rows:
        lacks = f"column {missing[0]}" if missing else "rows"
        raise ModelRefused(
            f"{path} has no {lacks}; calibration needs the columns image and prompt, with commas between"
        )
    found = []
    for line, row in rows:
        if None in row:
            raise ModelRefused(
                f"{path}, line {line}: there are more cells than columns: a text with a comma needs quotes"
            )
        missing = [name for name in COLUMNS if not (row.get(name) or "").strip()]
        if missing:
            raise ModelRefused(f"{path}, line {line}: calibration needs a value in the column {missing[0]}")
        prompt = ", ".join(part for part in (_text(row, "prompt"), _text(row, "a_prompt")) if part)
        found.append((_local(path, line, row["image"].strip()), prompt, _text(row, "n_prompt")))
    return found


def _text(row: Mapping[str, str], name: str) -> str | None:
    """A cell's text, None if it is missing or blank."""
    text = (row.get(name) or "").strip()
    return "" if text == EMPTY else text or None


def _read(path: Path) -> tuple[Sequence[str], list[tuple[int, dict[str, str]]]]:
    """The columns of a CSV, and its first rows, each with the number of the line that it ends in."""
    try:
        if not path.is_file():  # a pipe would be empty when it is read again
            raise ModelRefused(f"{path} is not a file; --calibrate takes a CSV with the columns image and prompt")
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in islice(reader, MOST_ROWS)]
            if any(len(cell) > LONGEST_CELL for _, row in rows for cell in row.values() if isinstance(cell, str)):
                raise csv.Error(f"a cell has more than {LONGEST_CELL} characters")  # csv's own limit may be raised
            return reader.fieldnames or (), rows
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelRefused(f"{path} cannot be read as a CSV in UTF-8: {reason}") from error


def _local(path: Path, line: int, image: str) -> Path:
    """The picture of a row. Addresses are not repeated in sentences: they may hold a password."""
    try:
        parts = urlsplit(image)
        scheme = parts.scheme
    except ValueError:
        scheme = "?"
    if scheme not in ("", "file"):
        raise ModelRefused(
            f"{path}, line {line}: the picture is not a file on this machine, and calibration reads only such; copy it "
            "here and name its path"
        )
    picture = path.parent / (unquote(parts.path) if scheme == "file" else image)
    try:
        is_file = picture.is_file()
    except (OSError, ValueError):  # too long a name, or a folder that may not be entered
        is_file = False
    if not is_file:
        raise ModelRefused(f"{path}, line {line}: there is no picture {str(picture)[:LONGEST_NAME]}")
    return picture
