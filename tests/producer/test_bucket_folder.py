"""`producer submit s3://bucket/photos/ --prompt "..."`: a folder of pictures in a bucket, one row each."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.ledger.ledger import Ledger
from producer.table import bucket_folder
from producer.table.bucket_folder import bucket_folder_table
from producer.table.folder import natural
from tests.odd_s3_store import OddStore, Refusal
from tests.producer.conftest import Run
from tests.producer.pictures import picture
from tests.producer.renderer import png

PHOTOS = "s3://pictures/in/photos/"
PROMPT = ("--prompt", "a watercolour")


@pytest.fixture
def store(empty_store: OddStore, monkeypatch: pytest.MonkeyPatch) -> OddStore:
    """A bucket with a folder of pictures, which it lists two names at a time."""
    monkeypatch.setattr("producer.table.bucket_folder.TRIES", 2)
    empty_store.page = 2
    add(empty_store, "img10.png", "img2.png", "IMG1.jpg")
    return empty_store


def add(store: OddStore, *names: str, folder: str = "/pictures/in/photos/") -> None:
    for name in names:
        store.objects[folder + name] = png("teal")


def rows(ledger: Ledger, batch: str = "photos") -> dict[str, int]:
    """Row numbers by the URI of the picture."""
    jobs = ledger.jobs(batch, [line.id for line in ledger.states(batch)])
    return {job.parameters.image: job.row for job in jobs.values()}


def test_every_picture_is_a_row_in_natural_order(run: Run, ledger: Ledger, store: OddStore) -> None:
    ran = run("submit", PHOTOS, *PROMPT)
    assert (ran.code, ran.record["batch"], ran.record["source"], ran.record["enqueued"]) == (0, "photos", PHOTOS, 3)
    assert rows(ledger) == {f"{PHOTOS}IMG1.jpg": 1, f"{PHOTOS}img2.png": 2, f"{PHOTOS}img10.png": 3}
    info = ledger.batch("photos")
    assert info is not None
    assert info.source == PHOTOS


def test_what_is_no_picture_is_counted_and_left_out_as_in_a_folder_here(run: Run, store: OddStore) -> None:
    add(store, "", ".hidden.png", "._img2.png", "Thumbs.db", "notes.txt", "more/inner.png", "more/inner2.png", ".git/x")
    ran = run("submit", PHOTOS, *PROMPT, "--dry-run")
    assert (ran.code, ran.record["rows"]) == (0, 3)
    assert "3 hidden files, 2 files that are not pictures and 1 folder were left out" in ran.stderr


def test_pictures_that_are_added_later_are_the_only_new_jobs(run: Run, ledger: Ledger, store: OddStore) -> None:
    run("submit", PHOTOS, *PROMPT)
    add(store, "img0.png")
    again = run("submit", "S3://pictures/in/photos//", *PROMPT)
    assert (again.record["enqueued"], again.record["already"]["queued"]) == (1, 3)
    assert rows(ledger)[f"{PHOTOS}img0.png"] == 4
    ran = run("submit", PHOTOS, "--prompt", "an etching")
    assert (ran.code, "submitted with --prompt 'a watercolour'" in ran.stderr) == (2, True)


@pytest.mark.parametrize("name", ["a b.png", "50% #1?.png", "ü/日本.png", "line\nend.png", "..png.png", "a&<b>.png"])
def test_a_key_of_any_characters_is_named_as_it_is(run: Run, ledger: Ledger, store: OddStore, name: str) -> None:
    folder, _, last = name.rpartition("/")
    uri = f"s3://pictures/odd/{folder}/" if folder else "s3://pictures/odd/"
    add(store, name, folder="/pictures/odd/")
    is_hidden = last.startswith(".")
    assert run("submit", uri, *PROMPT, "--batch", "odd").code == (5 if is_hidden else 0)
    assert rows(ledger, "odd") == ({} if is_hidden else {uri + last: 1})


def test_a_whole_bucket_is_a_folder_of_its_name(run: Run, ledger: Ledger, store: OddStore) -> None:
    store.objects = {"/pictures/a.png": b"x"}
    assert run("submit", "s3://pictures", *PROMPT).record["batch"] == "pictures"
    assert rows(ledger, "pictures") == {"s3://pictures/a.png": 1}


def test_a_folder_without_pictures_is_an_error(run: Run, store: OddStore) -> None:
    for command in (("submit", *PROMPT), ("sizes",)):
        ran = run(command[0], "s3://pictures/none/", *command[1:])
        assert (ran.code, ran.record["rows"]) == (5, 0)
        assert "s3://pictures/none/ has no pictures; is the name right?" in ran.stderr


def test_bad_rows_are_written_beside_the_folder(run: Run, store: OddStore) -> None:
    add(store, f"{'a' * 1015}.png", folder="/pictures/in/photos/")  # a longer key than S3 takes, but stores may
    store.objects[f"/pictures/in/photos/{'b' * 4100}.png"] = b"x"
    ran = run("submit", PHOTOS, *PROMPT, "--skip-invalid")
    assert ran.record["rejected_file"] == "s3://pictures/in/photos.rejected.csv"
    assert b"bbb.png" in store.objects["/pictures/in/photos.rejected.csv"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([PHOTOS], f"{PHOTOS} is a folder: give its pictures a prompt, as in producer submit {PHOTOS} --prompt"),
        ([PHOTOS, *PROMPT, "--input-format", "csv"], "--input-format is about a file, and photos is a folder"),
        ([PHOTOS, "--again"], f"--again reads the pictures of a folder on this machine, and {PHOTOS} is in a bucket"),
        (["s3://pictures/in/jobs.csv", "--again"], "in a bucket; copy them here first"),
        (["s3://pictures/in/photos", *PROMPT], "the name of a folder of pictures ends with '/'"),
    ],
)
def test_what_does_not_go_with_a_folder_in_a_bucket_is_said(
    run: Run, store: OddStore, arguments: list[str], sentence: str
) -> None:
    ran = run("submit", *arguments)
    assert ran.code in (2, 5)
    assert sentence in ran.stderr


def test_a_bucket_that_may_not_be_listed_is_a_sentence(run: Run, store: OddStore) -> None:
    store.refuse = lambda method, path, key: Refusal(403, "AccessDenied") if method == "GET" else None
    ran = run("submit", PHOTOS, *PROMPT)
    assert ran.code not in (0, 1)
    assert "s3:ListBucket" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_producer_sizes_measures_a_folder_in_a_bucket(run: Run, store: OddStore, tmp_path: Path) -> None:
    store.objects = {"/pictures/in/photos/a.png": picture(tmp_path / "a.png").read_bytes()}
    ran = run("sizes", PHOTOS)
    assert (ran.code, ran.record["measured"]) == (0, 1)


class ManyNames:
    """A store that lists many names, in no order."""

    def __init__(self, number: int) -> None:
        self.number = number

    def names(self, folder: str) -> Iterator[str]:
        del folder
        order = random.Random(0)
        for at in range(self.number):
            yield f"{order.randrange(10**6)}-{at}.png"


def test_the_names_of_a_large_folder_are_in_order_and_not_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    many: Any = ManyNames(8_000)
    monkeypatch.setattr(bucket_folder, "store_for", lambda uri: many)
    monkeypatch.setattr(bucket_folder, "RUN", 400)
    last, number = "", 0
    tracemalloc.start()
    with bucket_folder_table("s3://b/f/") as table:
        for record in table.records:
            name = record.cells[0].removeprefix("s3://b/f/")
            assert natural(last) < natural(name)
            last, number = name, number + 1
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == record.row == 8_000
    assert peak < 1_000_000  # the names would take as much, and their keys six times that
