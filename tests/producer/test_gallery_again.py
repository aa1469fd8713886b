"""A gallery that is made again: what is new, what is shared, what was damaged, and the pages among many."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from jobs.errors import SourceForbidden, SourceUnavailable
from jobs.job import RenderParameters
from jobs.ledger.ledger import Ledger
from jobs.storage.http import FetchLimits
from jobs.storage.store import read_bytes as read_from_store
from producer.gallery import page as gallery_module
from producer.gallery import thumbnails as thumbnails_module
from producer.gallery.book import Book
from producer.gallery.page_numbers import Page as Place
from producer.gallery.png_chunks import chunks_of, content_name, plain_copy
from producer.gallery.thumbnails import Thumbnails
from tests.producer.conftest import Run
from tests.producer.renderer import png
from tests.producer.terminal import on_terminal
from tests.producer.test_gallery import NASTY, Page, make

ROWS = [f"photo.png,prompt number {row},1" for row in range(1, 6)]


@pytest.fixture
def two_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gallery_module, "PAGE_JOBS", 2)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file but the index, with its inode and time: a file that is written again has others."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".sqlite"]
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def copies(folder: Path) -> list[Path]:
    return [path for path in (folder / "thumbnails").rglob("*") if path.suffix in (".jpg", ".png")]


def searched(folder: Path) -> list[list[Any]]:
    """What the search scripts hold, page by page."""
    scripts = sorted((folder / "search").iterdir(), key=lambda path: int(re.sub(r"\D", "", path.name)))
    calls = [re.fullmatch(r"gallerySearch\((\d+), (.*)\);\n", path.read_text(), re.DOTALL) for path in scripts]
    return [json.loads(call[2]) for call in calls if call is not None]


def test_nothing_is_written_when_nothing_is_new(run: Run, ledger: Ledger, tmp_path: Path, two_a_page: None) -> None:
    make(run, ledger, tmp_path, ROWS)
    before = files(tmp_path / "page")
    ran = run("gallery", "jobs", "--out", "page")
    assert files(tmp_path / "page") == before
    assert "5 jobs on 3 pages, 0 of them written anew: " in ran.stderr
    assert ran.record["pages"] == 3


def test_no_picture_is_read_when_nothing_is_new(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(run, ledger, tmp_path, ROWS)
    monkeypatch.setattr(thumbnails_module, "read_bytes", lambda uri, limits: pytest.fail(f"{uri} was read"))
    assert run("gallery", "jobs", "--out", "page").code == 0


def test_only_the_page_with_a_changed_picture_is_written(
    run: Run, ledger: Ledger, tmp_path: Path, two_a_page: None
) -> None:
    make(run, ledger, tmp_path, [*ROWS[:4], "other.png,another,1"])
    (tmp_path / "other.png").write_bytes(png("violet"))
    before = files(tmp_path / "page")
    assert "1 of them written anew" in run("gallery", "jobs", "--out", "page").stderr
    after = files(tmp_path / "page")
    assert {name for name in before if before[name] != after[name]} == {"page-3.html", "search/page-3.js"}
    assert "not found from here" not in (tmp_path / "page" / "page-3.html").read_text()


def test_a_page_that_somebody_changed_is_written_again(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    make(run, ledger, tmp_path, ROWS)
    index = tmp_path / "page" / "index.html"
    whole = index.read_text()
    index.write_text(whole.replace("prompt number 3", "PROMPT NUMBER 3"))
    run("gallery", "jobs", "--out", "page")
    assert index.read_text() == whole


def test_equal_pictures_share_a_small_copy(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    """Results of one colour differ in their text chunks alone; every row has the same input and black edges."""
    _, page = make(run, ledger, tmp_path, ROWS)
    assert len(copies(tmp_path / "page")) == 3
    assert len(set(filter(None, page.all("img", "src")))) == 3
    assert "prompt number 5" in page.text


def test_a_shared_picture_is_read_once(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_a_page: None
) -> None:
    read: list[str] = []
    real = read_from_store

    def read_bytes(uri: str, limits: FetchLimits) -> bytes:
        read.append(uri)
        return real(uri, limits)

    monkeypatch.setattr(thumbnails_module, "read_bytes", read_bytes)
    make(run, ledger, tmp_path, ROWS)
    assert read.count((tmp_path / "photo.png").as_uri()) == 1


DAMAGES = {
    "no database": b"this is no database",
    "empty": b"",
    "half": None,
}


@pytest.mark.parametrize("damage", [*DAMAGES, "other version", "other tables"])
def test_a_damaged_index_is_made_again(run: Run, ledger: Ledger, tmp_path: Path, damage: str) -> None:
    make(run, ledger, tmp_path, [f"photo.png,prompt {row} {'x' * 200},1" for row in range(20)])
    index = tmp_path / "page" / "thumbnails" / "jobs" / "made.sqlite"
    if damage in DAMAGES:
        data = index.read_bytes()
        index.write_bytes(data[: len(data) // 2] if DAMAGES[damage] is None else DAMAGES[damage] or b"")
    else:
        with sqlite3.connect(index) as database:
            database.execute("PRAGMA user_version = 99" if damage == "other version" else "DROP TABLE pages")
        database.close()
    before = len(copies(tmp_path / "page"))
    assert run("gallery", "jobs", "--out", "page").code == 0
    assert "0 of them written anew" in run("gallery", "jobs", "--out", "page").stderr
    assert len(copies(tmp_path / "page")) == before


def test_an_index_that_cannot_be_opened_is_an_error_with_its_name(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    make(run, ledger, tmp_path, ROWS)
    index = tmp_path / "page" / "thumbnails" / "jobs" / "made.sqlite"
    index.unlink()
    index.mkdir()
    ran = run("gallery", "jobs", "--out", "page")
    assert (ran.code, f"{index} cannot be used: unable to open database file" in ran.stderr) == (6, True)


def test_a_stopped_run_is_gone_on_with(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_a_page: None
) -> None:
    make(run, ledger, tmp_path, ROWS)
    real = Book.write

    def write(self: Book, page: Place, *arguments: Any) -> None:
        if page.number == 3:
            raise KeyboardInterrupt
        real(self, page, *arguments)

    monkeypatch.setattr(Book, "write", write)
    ran = run("gallery", "jobs", "--out", "second")
    assert (ran.code, "the same command goes on from there" in ran.stderr) == (130, True)
    before = files(tmp_path / "second")
    monkeypatch.setattr(Book, "write", real)
    assert "1 of them written anew" in run("gallery", "jobs", "--out", "second").stderr
    after = files(tmp_path / "second")
    assert {name for name in after if before.get(name) != after[name]} == {"page-3.html", "search/page-3.js"}


def test_pages_that_are_no_more_are_removed(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_a_page: None
) -> None:
    make(run, ledger, tmp_path, ROWS)
    (tmp_path / "page" / "page-9.html").write_text("somebody else's")
    monkeypatch.setattr(gallery_module, "PAGE_JOBS", 4)
    assert run("gallery", "jobs", "--out", "page").record["pages"] == 2
    left = {path.name for path in (tmp_path / "page").glob("*.html")}
    assert left == {"index.html", "page-2.html", "page-9.html"}
    assert {path.name for path in (tmp_path / "page" / "search").iterdir()} == {"page-1.js", "page-2.js"}


def test_every_job_can_be_searched_and_its_link_finds_it(
    run: Run, ledger: Ledger, tmp_path: Path, two_a_page: None
) -> None:
    make(run, ledger, tmp_path, ROWS, failing={4}, error="the picture is gone")
    pages = searched(tmp_path / "page")
    assert [[row[0] for row in page] for page in pages] == [[1, 2], [3, 4], [5]]
    for number, rows in enumerate(pages, 1):
        page = Page(tmp_path / "page" / ("index.html" if number == 1 else f"page-{number}.html"))
        assert page.all("article", "id") == [f"job-{row[1]}" for row in rows]
        assert all(row[6] is None or (tmp_path / "page" / row[6]).is_file() for row in rows)
    assert pages[1][1][2:5] == ["failed", "prompt number 4", "source_not_found the picture is gone"]


def test_texts_of_strangers_are_data_in_the_search(run: Run, ledger: Ledger, tmp_path: Path, two_a_page: None) -> None:
    nasty = f"{NASTY} \u2028 猫"
    quoted = '"' + nasty.replace('"', '""') + '"'
    make(run, ledger, tmp_path, [f"photo.png,{quoted},1"] * 3, failing={1}, error=NASTY)
    (row, _), _ = searched(tmp_path / "page")
    assert (row[3], row[4]) == (nasty, f"source_not_found {NASTY}")


def test_a_signature_is_in_no_file_of_the_gallery(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, two_a_page: None
) -> None:
    monkeypatch.setattr(thumbnails_module, "read_bytes", lambda uri, limits: png("red"))
    make(run, ledger, tmp_path, ["https://u:SECRET@example.org/photo.png?signature=SECRET,a cat,1"] * 3)
    for path in (tmp_path / "page").rglob("*"):
        assert not path.is_file() or b"SECRET" not in path.read_bytes(), path


def test_pages_are_linked_by_number_first_and_last(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_module, "PAGE_JOBS", 1)
    make(run, ledger, tmp_path, [f"photo.png,cat {row},1" for row in range(12)])
    page = Page(tmp_path / "page" / "page-6.html")
    linked = [link for link in page.all("a", "href") if link.endswith(".html")]
    near = ["page-4.html", "page-5.html", "page-7.html", "page-8.html"]
    # Above the jobs, and below them with the page before and the one after.
    assert linked == [
        "index.html",
        *near,
        "page-12.html",
        "page-5.html",
        "index.html",
        *near,
        "page-12.html",
        "page-7.html",
    ]
    assert page.all("a", "aria-current") == ["page", "page"]


@pytest.mark.parametrize(
    ("number", "pages", "shown"),
    [
        (1, 1, [1]),
        (1, 4, [1, 2, 3, 4]),
        (4, 100, [1, 2, 3, 4, 5, 6, None, 100]),
        (50, 100, [1, None, 48, 49, 50, 51, 52, None, 100]),
        (97, 100, [1, None, 95, 96, 97, 98, 99, 100]),
    ],
)
def test_numbers_are_left_out_only_where_that_is_shorter(number: int, pages: int, shown: list[int | None]) -> None:
    assert [link and link[0] for link in Place(number, pages, 1, 1).numbers] == shown


def test_without_copies_small_pictures_are_shown_themselves(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    make(run, ledger, tmp_path, ROWS)
    ran = run("gallery", "jobs", "--out", "light", "--no-copies")
    page = Page(tmp_path / "light" / "index.html")
    assert copies(tmp_path / "light") == []
    assert len([src for src in page.all("img", "src") if src]) == 15
    assert all((tmp_path / "light" / src).is_file() for src in page.all("img", "src") if src)
    assert "num_samples1" in page.text.replace("\n", "").replace(" ", "")
    assert "with --copies every picture gets a small copy" in ran.stderr
    assert run("gallery", "jobs", "--out", "light", "--copies").code == 0
    assert len(copies(tmp_path / "light")) == 3


def test_many_jobs_have_their_small_pictures_shown_themselves(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_module, "COPIES_UP_TO", 4)
    make(run, ledger, tmp_path, ROWS)
    assert copies(tmp_path / "page") == []


def test_a_terminal_is_told_in_words(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    make(run, ledger, tmp_path, ROWS)
    shown = on_terminal(tmp_path, "gallery", "jobs", "--out", "second", columns=300)
    assert (shown.code, "5 jobs on 1 page: " in shown.text, "{" in shown.text) == (0, True, False)


# -- pictures one by one ---------------------------------------------------------------------------------------------


@pytest.fixture
def light(tmp_path: Path) -> Thumbnails:
    return Thumbnails(tmp_path / "small", FetchLimits(), max_pixels=1_000_000, copy_all=False)


def deep(path: Path) -> None:
    Image.new("I;16", (20, 10), 40_000).save(path)


def large(path: Path) -> None:
    Image.new("RGB", (1100, 20)).save(path)


def translucent(path: Path) -> None:
    Image.new("RGBA", (20, 10), (255, 0, 0, 90)).save(path)


def jpeg(path: Path) -> None:
    Image.new("RGB", (20, 10)).save(path, "JPEG")


@pytest.mark.parametrize("drawn", [deep, large, translucent, jpeg])
def test_a_picture_that_a_browser_would_show_otherwise_is_copied(light: Thumbnails, tmp_path: Path, drawn: Any) -> None:
    drawn(tmp_path / "a.png")
    shown = light.of((tmp_path / "a.png").as_uri(), made_at=0)
    assert (shown.problem, shown.path != tmp_path / "a.png") == (None, True)


def test_a_result_that_broke_off_is_not_shown_itself(light: Thumbnails, tmp_path: Path) -> None:
    noise = Image.effect_noise((200, 200), 90).convert("RGB")
    noise.save(tmp_path / "whole.png")
    (tmp_path / "a.png").write_bytes((tmp_path / "whole.png").read_bytes()[:-2000])
    shown = light.of((tmp_path / "a.png").as_uri(), made_at=0)
    assert (shown.path, "not a readable picture" in (shown.problem or "")) == (None, True)


def test_a_pipe_is_not_waited_for(light: Thumbnails, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    assert "is not a regular file" in (light.of((tmp_path / "a.png").as_uri(), made_at=0).problem or "")


def test_a_host_that_does_not_answer_is_given_up(light: Thumbnails, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def read_bytes(uri: str, limits: FetchLimits) -> bytes:
        asked.append(uri)
        raise SourceUnavailable("it took longer than allowed")

    monkeypatch.setattr(thumbnails_module, "read_bytes", read_bytes)
    problems = [light.of(f"https://slow.example.org/{row}.png", made_at=0).problem for row in range(50)]
    assert len(asked) == 5
    assert problems[-1] == "slow.example.org did not answer 5 times: not asked again in this run"
    light.of("https://other.example.org/a.png", made_at=0)
    assert len(asked) == 6


def test_keys_that_are_missing_are_not_tried_for_every_picture(
    light: Thumbnails, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def read_bytes(uri: str, limits: FetchLimits) -> bytes:
        asked.append(uri)
        raise SourceForbidden("no credentials", fault="worker", unfit=True)

    monkeypatch.setattr(thumbnails_module, "read_bytes", read_bytes)
    for row in range(50):
        light.of(f"s3://bucket/{row}.png", made_at=0)
    assert len(asked) == 5


def test_what_is_elsewhere_is_read_again_only_if_it_was_made_since(
    light: Thumbnails, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thumbnails_module, "read_bytes", lambda uri, limits: png("red"))
    first = light.of("s3://bucket/a.png", made_at=0)
    assert light.of("s3://bucket/a.png", made_at=first.looked_at - 1, known=first) is first
    assert light.of("s3://bucket/a.png", made_at=first.looked_at + 1, known=first) is not first


def test_a_photograph_is_copied_upright_and_small(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (3000, 2000), "red").save(tmp_path / "a.jpg", exif=exif)
    shown = Thumbnails(tmp_path / "small", FetchLimits(), 10_000_000).of((tmp_path / "a.jpg").as_uri(), made_at=0)
    assert (shown.width, shown.height) == (299, 448)


def test_only_our_texts_make_no_difference_to_a_picture() -> None:
    def named(data: bytes) -> str:
        return content_name(data, chunks_of(data))

    parameters = RenderParameters(image="a.png", prompt="a cat").model_dump_json()
    assert named(png("red", render=parameters)) == named(png("red", render="{}")) == named(png("red"))
    assert named(png("red")) != named(png("blue"))


def test_chunks_of_a_damaged_png_are_none() -> None:
    data = png("red")
    assert chunks_of(data) is not None
    for damaged in (data[:-1], data[:40], data[:30] + b"x" + data[31:], b"", b"GIF89a", data[:8]):
        assert chunks_of(damaged) is None


def test_a_plain_copy_has_the_pixels_and_nothing_else() -> None:
    data = png("red", render="some text")
    plain = plain_copy(chunks_of(data) or [])
    assert plain == png("red")
    assert kinds(data) == [b"IHDR", b"iTXt", b"IDAT", b"IEND"]


def kinds(data: bytes) -> list[bytes]:
    return [chunk.kind for chunk in chunks_of(data) or []]
