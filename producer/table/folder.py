"""The pictures in a folder, in natural order. The folder's own folders are not looked into."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from producer.table.reader import Record, Table

# What workers read, by their files' usual endings.
PICTURES = frozenset(
    {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif", ".heic", ".heif"}
)
DIGITS = re.compile("([0-9]{1,4000})")  # Python makes no number of more than 4300
HIDDEN, OTHERS, FOLDERS = "hidden", "others", "folders"


@dataclass(frozen=True)
class Listing:
    """The pictures of a folder, and how many entries of other kinds it has: one moment's view of it."""

    folder: Path
    names: tuple[str, ...]
    left_out: Counter[str]

    @property
    def remark(self) -> str | None:
        """What was left out, as a sentence; None where nothing was."""
        return left_out_remark(self.left_out)

    def uri(self, name: str) -> str:
        """The picture's file:// URI."""
        return (self.folder / name).as_uri()


def left_out_remark(left_out: Counter[str]) -> str | None:
    """`2 hidden files, 1 file that is not a picture and 3 folders were left out`, or None."""
    numbers = (left_out[HIDDEN], left_out[OTHERS], left_out[FOLDERS])
    parts = [
        f"{number:,} {one if number == 1 else several}"
        for number, one, several in zip(
            numbers,
            ("hidden file", "file that is not a picture", "folder"),
            ("hidden files", "files that are not pictures", "folders"),
            strict=True,
        )
        if number
    ]
    if not parts:
        return None
    were = "was" if sum(numbers) == 1 else "were"
    advice = " (the pictures in a folder of its own are submitted by its name)" if left_out[FOLDERS] else ""
    return f"{' and '.join([', '.join(parts[:-1]), parts[-1]] if parts[1:] else parts)} {were} left out{advice}"


def listing(folder: Path) -> Listing:
    """Look into a folder once.

    Raises:
        OSError: it cannot be read.
    """
    folder = absolute(folder)
    names: list[str] = []
    left_out: Counter[str] = Counter()
    with os.scandir(folder) as entries:
        for entry in entries:
            kind = _kind(entry)
            if kind is None:
                names.append(entry.name)
            else:
                left_out[kind] += 1
    return Listing(folder, tuple(sorted(names, key=natural)), left_out)


def absolute(folder: Path) -> Path:
    """The folder by one name: `photos`, `photos/` and `.` inside it are the same. Links stay as they are."""
    return Path(os.path.abspath(folder))  # noqa: PTH100 (Path.absolute keeps `..`)


def natural(name: str) -> tuple[list[str | int], str]:
    """A key that sorts `img2.png` before `img10.png`, whatever the case; equal ones by their letters."""
    parts: list[str | int] = list(DIGITS.split(name.casefold()))
    parts[1::2] = map(int, parts[1::2])  # names and numbers take turns, so only likes are compared
    return parts, name


def folder_table(pictures: Listing) -> Table:
    """One record a picture: the column `image` alone. All else is said by options."""
    return Table(("image",), [pictures.remark] if pictures.remark else [], _records(pictures))


def _records(pictures: Listing) -> Iterator[Record]:
    for row, name in enumerate(pictures.names, 1):
        yield Record(row, row, [pictures.uri(name)], place=printable(name))


def _kind(entry: os.DirEntry[str]) -> str | None:
    """What an entry counts as; None for a picture."""
    if entry.name.startswith("."):
        return HIDDEN
    try:
        if entry.is_dir():
            return FOLDERS
        return None if is_picture_name(entry.name) and entry.is_file() else OTHERS
    except OSError:  # a link that leads back to itself
        return OTHERS


def printable(name: str) -> str:
    """A file's name for people and for JSON: bytes that are not UTF-8 and control characters become `�`."""
    text = name if name.isascii() else os.fsencode(name).decode("utf-8", "replace")
    return text if text.isprintable() else "".join(char if char.isprintable() else "�" for char in text)


def is_picture_name(name: str) -> bool:
    """Whether a file's ending is a picture's."""
    return os.path.splitext(name)[1].lower() in PICTURES  # noqa: PTH122 (a name may be any text)
