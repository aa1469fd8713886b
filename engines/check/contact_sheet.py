"""A contact sheet: the pictures that differ most, one row each: input, edges, both sets' pictures, the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from engines.check.sheet_format import refusal
from engines.errors import DiskRefused
from engines.files import write_whole

LONGEST_SIDE = 256  # pixels of a picture on the sheet
NARROWEST = 112  # pixels of a column, which has to hold its name
GAP, LINE = 8, 22  # pixels
COLUMNS = ("input", "edges", "set", "reference", "difference")
WHITE, BLACK = 255, 0
QUALITY = 95
# OpenCV writes a warning for a setting of another format.
SETTINGS = {ending: [cv2.IMWRITE_JPEG_QUALITY, QUALITY] for ending in (".jpg", ".jpeg")}
SETTINGS[".webp"] = [cv2.IMWRITE_WEBP_QUALITY, QUALITY]


@dataclass(frozen=True, eq=False)
class Row:
    """One seed: its caption, and its pictures in the order of COLUMNS but the last, each uint8 [H, W] or [H, W, 3]."""

    caption: str
    pictures: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def check_sheet(path: Path, *, rows: int, size: tuple[int, int]) -> None:
    """Before pictures of this height and width are rendered: whether a sheet of so many rows can be written.

    Raises:
        DiskRefused: the file's ending names no format, it is a folder, or the format takes no sheet of this size.
    """
    reason = refusal(path, _page_height(rows, _cell_size(*size)[0]))
    if reason is not None:
        raise DiskRefused(reason)


def write_sheet(path: Path, rows: Sequence[Row]) -> None:
    """Write the sheet in the format of the file's ending, whole or not at all.

    Raises:
        DiskRefused: the file cannot be written.
    """
    page = sheet(rows)
    reason = refusal(path, page.shape[0])
    if reason is not None:
        raise DiskRefused(reason)
    ending = path.suffix.lower()
    done, data = cv2.imencode(ending, cv2.cvtColor(page, cv2.COLOR_RGB2BGR), SETTINGS.get(ending, []))
    assert done
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, data.tobytes())
    except (OSError, ValueError) as error:
        raise DiskRefused(
            f"the sheet cannot be written to {path}: {getattr(error, 'strerror', None) or error}"
        ) from error


def sheet(rows: Sequence[Row]) -> np.ndarray:
    """All rows below each other, uint8 [H, W, 3]."""
    cells = [[_small(picture) for picture in (*row.pictures, _difference(*row.pictures[2:]))] for row in rows]
    height, width = (max(cell.shape[axis] for line in cells for cell in line) for axis in (0, 1))
    width = max(width, NARROWEST)
    page = np.full((_page_height(len(rows), height), GAP + len(COLUMNS) * (width + GAP), 3), WHITE, np.uint8)
    for number, name in enumerate(COLUMNS):
        _write(page, name, GAP + number * (width + GAP), LINE - 6)
    for place, (row, line) in enumerate(zip(rows, cells, strict=True)):
        top = LINE + place * (LINE + height + GAP)
        _write(page, row.caption, GAP, top + LINE - 6)
        for number, cell in enumerate(line):
            left = GAP + number * (width + GAP)
            page[top + LINE : top + LINE + cell.shape[0], left : left + cell.shape[1]] = cell
    return page


def _page_height(rows: int, cell_height: int) -> int:
    return LINE + rows * (LINE + cell_height + GAP) + GAP


def _difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The difference of each value, so that the largest becomes white: small ones would be black on black."""
    difference = np.abs(one.astype(np.int16) - other.astype(np.int16))
    largest = int(difference.max())
    scaled: np.ndarray = (difference * (WHITE / largest if largest else 0)).astype(np.uint8)
    return scaled


def _small(picture: np.ndarray) -> np.ndarray:
    """A picture that fits a cell, uint8 [H, W, 3]; smaller ones stay as they are."""
    colours = np.repeat(picture[:, :, None], 3, axis=2) if picture.ndim == 2 else picture
    height, width = _cell_size(*colours.shape[:2])
    if (height, width) == colours.shape[:2]:
        return colours
    small: np.ndarray = cv2.resize(colours, (width, height), interpolation=cv2.INTER_AREA)
    return small


def _cell_size(height: int, width: int) -> tuple[int, int]:
    factor = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * factor)), max(1, round(width * factor))


def _write(page: np.ndarray, text: str, left: int, bottom: int) -> None:
    cv2.putText(page, text, (left, bottom), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (BLACK,) * 3, 1, cv2.LINE_AA)
