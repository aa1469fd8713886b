"""Where subjects come from: a CSV of pictures and prompts, or none."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from engines.errors import ModelRefused
from engines.files import file_sha256
from engines.manifest import BUILT_IN_SUBJECTS, json_key

if TYPE_CHECKING:
    from engines.sampler.subjects import Subject

# The subjects that are drawn where nobody names any, and the most rows of a CSV that are read.
BUILT_IN, MOST_ROWS = 9, 64


@dataclass(frozen=True)
class SubjectSource:
    """Where subjects come from: a CSV with the columns image and prompt, or None for random shapes."""

    path: Path | None = None

    @property
    def digest(self) -> str:
        """Of the CSV and of the pictures that it names.

        Raises:
            ModelRefused: as `subjects`.
        """
        if self.path is None:
            return json_key(BUILT_IN_SUBJECTS, BUILT_IN)
        pictures = [file_sha256(picture) for picture, _, _ in _rows(self.path)]
        return json_key(file_sha256(self.path), pictures)

    @property
    def text(self) -> str:
        """For manifests: the CSV's path, or what stands for it."""
        return BUILT_IN_SUBJECTS if self.path is None else str(self.path)

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
            Subject(prompt, edges_of(picture, height, width), seed, negative or NEGATIVE)
            for seed, (picture, prompt, negative) in rows
        ]


def _rows(path: Path) -> list[tuple[Path, str, str]]:
    """Picture, prompt and negative prompt of the first rows of a CSV; pictures are files of this machine."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))[:MOST_ROWS]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ModelRefused(f"{path} cannot be read: {error}") from error
    found = []
    for number, row in enumerate(rows, start=2):
        missing = [name for name in ("image", "prompt") if not (row.get(name) or "").strip()]
        if missing:
            raise ModelRefused(f"{path}, line {number}: calibration needs a value in the column {missing[0]}")
        prompt = ", ".join(part for part in (row["prompt"].strip(), (row.get("a_prompt") or "").strip()) if part)
        found.append((_local(path, number, row["image"].strip()), prompt, (row.get("n_prompt") or "").strip()))
    if not found:
        raise ModelRefused(f"{path} has no rows to calibrate with; it needs the columns image and prompt")
    return found


def _local(path: Path, number: int, image: str) -> Path:
    parts = urlsplit(image)
    if parts.scheme not in ("", "file"):
        raise ModelRefused(
            f"{path}, line {number}: {image!r} is no file of this machine, and calibration reads only such; "
            "copy the picture here and name its path"
        )
    picture = path.parent / (unquote(parts.path) if parts.scheme == "file" else image)
    if not picture.is_file():
        raise ModelRefused(f"{path}, line {number}: there is no picture {picture}")
    return picture
