"""The sheet of the worst pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from engines.check.contact_sheet import COLUMNS, GAP, LINE, NARROWEST, Row, check_sheet, sheet, write_sheet
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


@pytest.mark.parametrize(
    ("name", "kind"),
    [("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.JPEG", "JPEG"), ("a.webp", "WEBP"), ("a.png.jpg", "JPEG")],
)
def test_it_has_the_format_of_the_files_ending(
    tmp_path: Path, name: str, kind: str, capfd: pytest.CaptureFixture[str]
) -> None:
    write_sheet(tmp_path / name, [row((64, 80))])
    assert capfd.readouterr().err == ""  # OpenCV warns of what it does not understand
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
        off = np.asarray(image.convert("RGB")).astype(int) - sheet([row((64, 80))])
        assert np.abs(off).mean() < 1


@pytest.mark.parametrize(
    ("name", "rows", "sentence"),
    [
        ("a.gif", 4, r"a\.gif: the ending '\.gif' names no format of a sheet; name a file that ends in \.png, \.jpg"),
        ("worst", 4, r"worst: its name has no ending; name a file that ends in \.png"),
        (".png", 4, r"\.png: its name has no ending"),
        ("file/a.png", 4, r"the sheet cannot be written to .*file/a\.png: .*/file is not a folder"),
        ("folder.png", 4, r"folder\.png is a folder; name a file"),
        ("a.webp", 100, r"the sheet is 28630 pixels high, and \.webp takes 16383 at most; name a \.png, or fewer"),
    ],
)
def test_a_file_that_cannot_become_a_sheet_is_refused_before_anything_is_rendered(
    tmp_path: Path, name: str, rows: int, sentence: str
) -> None:
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(DiskRefused, match=sentence):
        check_sheet(tmp_path / name, rows=rows, size=(512, 512))


def test_a_large_sheet_is_a_png_or_a_jpeg(tmp_path: Path) -> None:
    for name in ("a.png", "a.jpg"):
        check_sheet(tmp_path / name, rows=100, size=(512, 512))
