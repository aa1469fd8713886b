"""The sheet of the worst pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.check.contact_sheet import COLUMNS, GAP, LINE, NARROWEST, Row, sheet, write_sheet
from engines.errors import DiskRefused


def row(size: tuple[int, int], off: int = 3) -> Row:
    grey = np.full(size, 128, np.uint8)
    edges = np.zeros(size, np.uint8)
    one = np.full((*size, 3), 100, np.uint8)
    other = one.copy()
    other[0, 0] += np.uint8(off)
    return Row("seed 0, PSNR 50.0 dB", (grey, edges, one, other))


def test_a_row_has_five_pictures_and_the_largest_difference_is_white() -> None:
    page = sheet([row((64, 80)), row((64, 80), off=0)])
    assert page.shape == (LINE + 2 * (LINE + 64 + GAP) + GAP, GAP + len(COLUMNS) * (NARROWEST + GAP), 3)
    top, step = 2 * LINE, NARROWEST + GAP
    first = [page[top : top + 64, GAP + n * step : GAP + n * step + 80] for n in range(5)]
    assert [int(cell[5, 5, 0]) for cell in first] == [128, 0, 100, 100, 0]
    assert first[4][0, 0].tolist() == [255, 255, 255]
    second = page[top + LINE + 64 + GAP :][:64, GAP + 4 * step : GAP + 4 * step + 80]
    assert not second.any()


def test_large_pictures_become_small() -> None:
    page = sheet([row((1024, 512))])
    assert page.shape[:2] == (LINE + LINE + 256 + GAP + GAP, GAP + 5 * (128 + GAP))


def test_it_is_written_as_a_png_or_a_sentence_says_why_not(tmp_path: Path) -> None:
    path = tmp_path / "new" / "sheet.png"
    write_sheet(path, [row((64, 80))])
    with Image.open(path) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        assert np.array_equal(np.asarray(image), sheet([row((64, 80))]))
    (tmp_path / "file").touch()
    with pytest.raises(DiskRefused, match=r"the sheet cannot be written to .*file/sheet\.png"):
        write_sheet(tmp_path / "file" / "sheet.png", [row((64, 80))])
