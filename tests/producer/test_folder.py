"""`producer submit photos/ --prompt "..."`: a folder of pictures, one row each."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from jobs.ledger.enqueue import enqueue
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from producer.table.folder import listing, natural
from tests.producer.conftest import Run
from tests.producer.pictures import picture
from tests.producer.renderer import render_batch

PROMPT = ("--prompt", "a watercolour")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("img10.png", "img2.png", "IMG1.jpg"):
        picture(folder / name)
    return folder


def rows(ledger: Ledger, batch: str = "photos") -> dict[str, int]:
    """The rows of the jobs that are not done, by the name of their picture."""
    jobs = ledger.jobs(batch, [line.id for line in ledger.states(batch) if line.state != "superseded"])
    return {Path(job.parameters.image).name: job.row for job in jobs.values()}


def test_every_picture_is_a_row_in_natural_order(run: Run, ledger: Ledger, photos: Path) -> None:
    ran = run("submit", "photos/", *PROMPT, "--n-prompt", "")
    assert (ran.code, ran.record["batch"], ran.record["enqueued"]) == (0, "photos", 3)
    assert rows(ledger) == {"IMG1.jpg": 1, "img2.png": 2, "img10.png": 3}
    (job, *_) = ledger.jobs("photos", list(ledger.ids("photos"))).values()
    assert (job.parameters.prompt, job.parameters.n_prompt) == ("a watercolour", "")


def test_what_is_no_picture_is_counted_and_left_out(run: Run, photos: Path) -> None:
    for name in (".hidden.png", "._img2.png", "Thumbs.db", "notes.txt"):
        (photos / name).write_bytes(b"x")
    (photos / "more.png").mkdir()
    (photos / "away.png").symlink_to("nothing")
    ran = run("submit", photos, *PROMPT, "--dry-run")
    assert (ran.code, ran.record["rows"]) == (0, 3)
    assert "2 hidden files, 3 files that are not pictures and 1 folder were left out" in ran.stderr


def test_pictures_that_are_added_later_are_the_only_new_jobs(run: Run, ledger: Ledger, photos: Path) -> None:
    run("submit", "photos", *PROMPT)
    render_batch(ledger, "photos", failing={2})
    picture(photos / "img0.png")
    picture(photos / "img3.png")
    again = run("submit", "photos/", *PROMPT)
    assert (again.record["enqueued"], again.record["replaced"], again.record["already"]["done"]) == (2, 0, 2)
    assert {name: row for name, row in rows(ledger).items() if name != "img2.png"} == {"img0.png": 4, "img3.png": 5}
    assert run("submit", "photos", *PROMPT).record["enqueued"] == 0


def test_pictures_keep_their_rows_although_their_submission_was_stopped(
    run: Run, ledger: Ledger, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: Any, **options: Any) -> None:
        enqueue(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("producer.submit.enqueue", stopped)
        assert run("submit", "photos", *PROMPT).code == 130
    render_batch(ledger, "photos")
    picture(photos / "a.png")
    again = run("submit", "photos", *PROMPT)
    assert (again.record["enqueued"], again.record["replaced"], again.record["already"]["done"]) == (1, 0, 3)


def test_a_picture_that_was_removed_leaves_the_rows_of_the_others(run: Run, ledger: Ledger, photos: Path) -> None:
    run("submit", "photos", *PROMPT)
    (photos / "img2.png").unlink()
    picture(photos / "img1.png")
    ran = run("submit", "photos", *PROMPT)
    assert (ran.record["enqueued"], ran.record["replaced"]) == (1, 0)
    picture(photos / "img2.png")
    assert run("submit", "photos", *PROMPT).record["enqueued"] == 0
    assert rows(ledger) == {"IMG1.jpg": 1, "img2.png": 2, "img10.png": 3, "img1.png": 4}


def test_the_rows_are_the_same_after_the_ledger_was_lost(run: Run, ledger: Ledger, photos: Path) -> None:
    run("submit", "photos", *PROMPT)
    picture(photos / "img0.png")
    run("submit", "photos", *PROMPT)
    before = rows(ledger)
    ledger.client.flushall()
    assert run("submit", "photos", *PROMPT).record["enqueued"] == 4
    assert rows(ledger) == before == {"IMG1.jpg": 1, "img2.png": 2, "img10.png": 3, "img0.png": 4}


def test_a_manifest_that_cannot_be_read_is_said_and_the_rows_are_in_natural_order(
    run: Run, ledger: Ledger, photos: Path, tmp_path: Path
) -> None:
    run("submit", "photos", *PROMPT)
    (part,) = (tmp_path / "renders" / "photos" / "manifest").glob("*.jsonl.gz")
    part.write_bytes(b"damaged")
    ran = run("submit", "photos", *PROMPT)
    assert (ran.code, ran.record["enqueued"]) == (0, 0)
    assert "Which rows the pictures of photos had before is not known" in ran.stderr


def test_another_prompt_is_another_batch(run: Run, photos: Path) -> None:
    run("submit", "photos", *PROMPT)
    ran = run("submit", "photos", "--prompt", "an etching")
    assert ran.code == 2
    assert "submitted with --prompt 'a watercolour'" in ran.stderr
    assert run("submit", "photos", "--prompt", "an etching", "--batch", "etchings").record["enqueued"] == 3


@pytest.mark.parametrize(
    "command",
    [
        ("submit", "empty", *PROMPT),
        ("submit", "empty", *PROMPT, "--dry-run"),
        ("submit", "empty", *PROMPT, "--wait", "--skip-invalid"),
        ("submit", "empty", "--again"),
        ("sizes", "empty"),
    ],
)
def test_a_folder_without_pictures_is_an_error(run: Run, tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "empty").mkdir()
    ran = run(*command)
    assert (ran.code, ran.record["rows"]) == (5, 0)
    assert "empty has no pictures" in ran.stderr
    assert "is it mounted?" in ran.stderr  # an empty folder is there in its place
    (tmp_path / "empty" / "2026").mkdir()
    ran = run(*command)
    assert ran.code == 5
    assert "1 folder was left out" in ran.stderr
    assert "mounted" not in ran.stderr


def test_the_current_folder_has_a_name(run: Run, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("submit", "photos", *PROMPT)
    monkeypatch.chdir(photos)
    ran = run("submit", ".", *PROMPT, "--output", photos.parent / "renders")
    assert (ran.record["batch"], ran.record["enqueued"]) == ("photos", 0)


def test_names_that_look_like_something_else_are_names(run: Run, ledger: Ledger, photos: Path) -> None:
    for name in ("~home.png", " spaces .png", "a%20b#?.png", "s3:x.png", "öl.png", "100%.png"):
        picture(photos / name)
    ran = run("submit", "photos", *PROMPT)
    assert (ran.code, ran.record["enqueued"]) == (0, 9)
    assert "cannot be found" not in ran.stderr
    assert ledger.counts("photos") == Counts(queued=9)


def test_a_bad_row_is_named_by_its_picture(run: Run, tmp_path: Path) -> None:
    deep = tmp_path / "/".join(["ö" * 120] * 6)  # in a URI, each of these letters takes six
    deep.mkdir(parents=True)
    picture(deep / "a.png")
    ran = run("submit", deep, *PROMPT, "--batch", "deep")
    assert ran.code == 3
    assert ": a.png: image: has 4," in ran.stderr
    skipped = run("submit", deep, *PROMPT, "--batch", "deep", "--skip-invalid")
    with Path(skipped.record["rejected_file"]).open() as file:
        assert next(csv.DictReader(file))["line"] == "a.png"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["photos"], "photos is a folder: give its pictures a prompt"),
        (
            ["photos", "--prompt", "x", "--input-format", "csv"],
            "--input-format is about a file, and photos is a folder",
        ),
        (["photos/img2.png", "--prompt", "x"], "img2.png is a picture by its name; name its folder"),
        (["https://host/photos/", "--prompt", "x"], "a folder of pictures is read from a path or from s3://, not from"),
        (
            ["http://host", "--prompt", "x"],
            "not from http://, where nothing says which files it has",
        ),
    ],
)
def test_what_does_not_go_with_a_folder_is_said(run: Run, photos: Path, arguments: list[str], sentence: str) -> None:
    ran = run("submit", *arguments)
    assert ran.code == 2
    assert sentence in ran.stderr


def test_natural_order_reads_numbers_as_numbers() -> None:
    names = ["b", "a10", "A2", "a02", "10", "9", "²", "a1b10", "a1b9", ""]
    assert sorted(names, key=natural) == ["", "9", "10", "a1b9", "a1b10", "A2", "a02", "a10", "b", "²"]
    assert natural("9" * 5000) > natural("10")  # a bucket's key, which no file could be called


def test_a_listing_does_not_look_into_folders(photos: Path) -> None:
    (photos / "sub").mkdir()
    picture(photos / "sub" / "inner.png")
    assert listing(photos).names == ("IMG1.jpg", "img2.png", "img10.png")
