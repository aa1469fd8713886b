"""`--calibrate`: whatever is in a CSV is read, or refused in a sentence before any stage of a build runs."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from engines.errors import ModelRefused
from engines.sampler.source import MOST_ROWS, SubjectSource
from engines.sampler.subjects import NEGATIVE

HEADER = b"image,prompt\n"


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says that it is of this size."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((9, 7, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "grey.png"), np.zeros((9, 7), np.uint8))
    cv2.imwrite(str(tmp_path / "alpha.png"), np.zeros((9, 7, 4), np.uint8))
    (tmp_path / "none.png").write_bytes(b"")
    (tmp_path / "large.png").write_bytes(claiming(60_000, 60_000))
    (tmp_path / "link.png").symlink_to("a.png")
    (tmp_path / "loop.png").symlink_to("loop.png")
    return tmp_path


def source(folder: Path, content: bytes) -> SubjectSource:
    (folder / "jobs.csv").write_bytes(content)
    return SubjectSource(folder / "jobs.csv")


@pytest.mark.parametrize("image", ["a.png", "grey.png", "alpha.png", "link.png"])
@pytest.mark.parametrize("begin", [b"", b"\xef\xbb\xbf"], ids=["plain", "mark"])
def test_pictures_beside_the_file_are_read(image: str, begin: bytes, folder: Path) -> None:
    found = source(folder, begin + HEADER + f"{image},a house\n".encode())
    found.check()
    (subject,) = found.subjects(64, 128)
    assert (subject.prompt, subject.edges.shape) == ("a house", (64, 128))
    assert len(found.digest) == 64


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "has no column image"),
        (b"image;prompt\na.png;x\n", "has no column image; .* with commas between"),
        (b"image, prompt\na.png,x\n", "has no column prompt"),
        (HEADER, "has no rows"),
        (HEADER + b"\n\na.png,\n", "line 4: calibration needs a value in the column prompt"),
        (HEADER + b"a.png,a cat, asleep\n", "line 2: there are more cells than columns"),
        (HEADER + b".,x\n", "line 2: there is no picture"),
        (HEADER + b"loop.png,x\n", "line 2: there is no picture"),
        (HEADER + b"a" * 5000 + b",x\n", "line 2: there is no picture"),
        (HEADER + b"//[x,y\n", "line 2: the picture is not a file on this machine"),
        (HEADER + b"none.png,x\n", "none.png is not a picture"),
        (HEADER + b"large.png,x\n", "large.png is too large"),
        (HEADER + b"\xff.png,x\n", "cannot be read as a CSV in UTF-8"),
        (HEADER + b"a.png," + b"y" * 200_000 + b"\n", "cannot be read as a CSV in UTF-8"),
    ],
)
def test_what_cannot_be_read_is_a_sentence(content: bytes, sentence: str, folder: Path) -> None:
    found = source(folder, content)
    with pytest.raises(ModelRefused, match=sentence):
        found.check()


def test_an_address_is_refused_and_not_repeated(folder: Path) -> None:
    with pytest.raises(ModelRefused) as refused:
        source(folder, HEADER + b"s3://user:secret@bucket/a.png,x\n").check()
    assert "secret" not in str(refused.value)


def test_folders_and_pipes_are_no_csv(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    for path in (folder, folder / "pipe", folder / "missing.csv"):
        with pytest.raises(ModelRefused, match="is not a file"):
            SubjectSource(path).digest  # noqa: B018


def test_rows_after_the_first_are_not_read(folder: Path) -> None:
    found = source(folder, HEADER + b"a.png,x\n" * MOST_ROWS + b"missing.png,x\n")
    assert len(found.subjects(64, 64)) == MOST_ROWS


def test_manifests_name_the_file_from_any_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert SubjectSource(Path("jobs.csv")).text == str(folder / "jobs.csv")
    assert SubjectSource().text == "built-in"


def test_a_cell_may_say_that_a_text_is_empty(folder: Path) -> None:
    """As it does in the files that producer submit reads."""
    found = source(folder, b"image,prompt,a_prompt,n_prompt\na.png,<empty>,<empty>,<empty>\na.png,x,y,\n")
    empty, other = found.subjects(64, 64)
    assert (empty.prompt, empty.negative) == ("", "")
    assert (other.prompt, other.negative) == ("x, y", NEGATIVE)
