"""Local pictures that no worker could read are bad rows; those that are only absent here are not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.job import RenderParameters
from producer.table.pictures import LOOKED_FOR, LocalPictures
from producer.table.problem import Problem
from tests.producer.tables import checked, sentences


@contextmanager
def without_privileges() -> Iterator[None]:
    """As a user who may not search the folders of tests; root may search any."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def looked_for(path: Path) -> Problem | None:
    parameters = RenderParameters(image=path.as_uri(), prompt="x")
    return LocalPictures().look_for(parameters, line=2)


@pytest.fixture
def places(tmp_path: Path) -> Path:
    (tmp_path / "a.png").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "nowhere.png").symlink_to("away.png")
    os.mkfifo(tmp_path / "fifo.png")
    return tmp_path


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("loop.png", "is a link that leads back to itself; name the picture itself"),
        ("a.png/b.png", "is not a path: a part of it is a file, and not a folder"),
        ("folder", "is a folder; name a picture"),
        ("fifo.png", "is not a regular file; name a picture"),
        ("/dev/null", "is not a regular file; name a picture"),
        ("x" * 300, "is not a path: a name has at most 255 bytes, and this one has 300"),
        ("x/" * 2100 + "a.png", "is too long a path: it has more than 4,095 bytes"),
        ('"a photo of a cat, ' + "fine art, " * 30 + '"', "is the text in the right column?"),
        ("~nobody-of-that-name/a.png", "names a home folder that does not exist"),
        ("file:///a%00.png", "holds a NUL byte"),
    ],
)
def test_a_path_that_no_worker_could_read_is_a_bad_row(places: Path, cell: str, said: str) -> None:
    (sentence,) = sentences(places, f"image,prompt\n{cell},x\na.png,x\n")
    assert sentence.startswith("jobs.csv:2: image: ")
    assert said in sentence
    assert len(sentence) < 330


def test_so_is_such_a_control_image_and_an_absent_one_is_counted(places: Path) -> None:
    (sentence,) = sentences(places, "image,prompt,control_image\na.png,x,folder\na.png,x,a.png\n")
    assert sentence.startswith("jobs.csv:2: control_image: ")
    assert sentence.endswith("is a folder; name a picture")
    outcome = checked(places, "image,prompt,control_image\na.png,x,away.png\naway.png,x,nowhere.png\na.png,x,\n")
    assert (outcome.problems, outcome.absent) == ([], 3)
    assert outcome.first_absent == (2, str(places / "away.png"))


def test_pictures_that_a_worker_may_find_are_counted_and_good(places: Path) -> None:
    outcome = checked(places, "image,prompt\naway.png,x\nnowhere.png,x\naway/b.png,x\n")
    assert (outcome.problems, outcome.absent) == ([], 3)


def test_a_folder_that_may_not_be_searched_is_a_bad_row(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0o000)
    with without_privileges():
        problem = looked_for(tmp_path / "closed" / "a.png")
    assert problem is not None
    assert problem.sentence("jobs.csv").startswith("jobs.csv:2: image: '")
    assert "lies in a folder that you may not search on this machine; permit that" in problem.message


def test_a_path_that_is_too_long_is_found_behind_the_rows_that_are_looked_for(tmp_path: Path) -> None:
    rows = "s3://b/a.png,x\n" * (LOOKED_FOR + 1)
    (sentence,) = sentences(tmp_path, f"image,prompt\n{rows}{'x' * 300},x\n")
    assert sentence.startswith(f"jobs.csv:{LOOKED_FOR + 3}: image: ")
