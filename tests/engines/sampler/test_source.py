"""What a quantized set is calibrated with. What is refused in a CSV: tests/engines/test_subject_source.py."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from engines.sampler.source import BUILT_IN, SubjectSource
from engines.sampler.subjects import NEGATIVE


def picture(path: Path, shade: int = 255) -> Path:
    pixels = np.zeros((48, 80, 3), np.uint8)
    cv2.rectangle(pixels, (10, 10), (60, 40), (shade, shade, shade), -1)
    cv2.imwrite(str(path), pixels)
    return path


def csv_of(tmp_path: Path, text: str) -> SubjectSource:
    path = tmp_path / "jobs.csv"
    path.write_text(text, encoding="utf-8")
    return SubjectSource(path)


def test_without_a_csv_random_shapes_are_drawn() -> None:
    subjects = SubjectSource().subjects(64, 128)
    assert len(subjects) == BUILT_IN
    assert len({subject.seed for subject in subjects}) == BUILT_IN
    assert len({subject.prompt for subject in subjects}) > 1
    assert {subject.edges.shape for subject in subjects} == {(64, 128)}
    assert all(subject.edges.any() for subject in subjects)


def test_rows_are_pictures_with_their_prompts(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    picture(tmp_path / "b c.png")
    source = csv_of(
        tmp_path,
        f"\ufeffimage,prompt,a_prompt,n_prompt\na.png,a box,sharp,blurred\nfile://{tmp_path}/b%20c.png,a cat,,\n",
    )
    first, second = source.subjects(64, 128)
    assert (first.prompt, first.negative) == ("a box, sharp", "blurred")
    assert (second.prompt, second.negative) == ("a cat", NEGATIVE)
    assert first.edges.shape == (64, 128)
    assert set(np.unique(first.edges)) == {0, 255}


def test_another_picture_is_another_calibration(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    source = csv_of(tmp_path, "image,prompt\na.png,a box\n")
    before = source.digest
    assert before == source.digest != SubjectSource().digest
    picture(tmp_path / "a.png", shade=90)
    assert source.digest != before
