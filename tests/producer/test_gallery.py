"""The page: what it shows, that it is whole without a network, and that no text of a stranger becomes markup."""

from __future__ import annotations

import re
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from jobs.ledger.keys import batch_key
from jobs.ledger.ledger import Ledger
from jobs.storage.http import FetchLimits
from producer.gallery import page as gallery_module
from producer.gallery.thumbnails import Thumbnails
from tests.producer.conftest import Ran, Run
from tests.producer.renderer import png, render_batch
from tests.producer.tables import write

NASTY = "<script>alert(1)</script> & \"quotes\" 'single' {{ 7*7 }}"


class Page(HTMLParser):
    """The tags and texts of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str, attribute: str) -> list[str]:
        return [value for name, attrs in self.tags if name == tag and (value := attrs.get(attribute)) is not None]


def make(run: Run, ledger: Ledger, folder: Path, rows: list[str], **rendering: object) -> tuple[Ran, Page]:
    """Submit, render and show rows of `image,prompt,num_samples`."""
    (folder / "photo.png").write_bytes(png("orange"))
    write(folder, "image,prompt,num_samples\n" + "".join(f"{row}\n" for row in rows))
    assert run("submit", "jobs.csv").code == 0
    render_batch(ledger, "jobs", **rendering)  # type: ignore[arg-type]
    ran = run("gallery", "jobs", "--out", "page")
    assert ran.code == 0
    return ran, Page(folder / "page" / "index.html")


def test_a_job_shows_input_edges_and_every_result(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    ran, page = make(run, ledger, tmp_path, ["photo.png,a cat,2"])
    assert page.all("img", "alt")[:4] == [
        "Input of row 1: a cat",
        "Edges of row 1: a cat",
        "Result 1 of row 1: a cat",
        "Result 2 of row 1: a cat",
    ]
    assert ran.record == {
        "batch": "jobs",
        "index": str(tmp_path / "page/index.html"),
        "jobs": 1,
        "pages": 1,
        "engine_sets": [{"engine_set": "0" * 64, "model": "some-model", "jobs": 1}],
        "engine_sets_unknown": 0,
    }


def test_every_picture_and_link_is_relative_and_there(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    _, page = make(run, ledger, tmp_path, ["photo.png,a cat,1", "photo.png,a dog,1"])
    references = [*filter(None, page.all("img", "src")), *page.all("a", "href")]
    files = [reference for reference in references if not reference.startswith("#")]
    assert len(files) == 12
    assert [name for name in files if ":" in name or not (tmp_path / "page" / unquote(name)).is_file()] == []


def test_names_with_special_characters_are_linked(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    name = "a photo #1 100%?.png"
    (tmp_path / name).write_bytes(png("blue"))
    _, page = make(run, ledger, tmp_path, [f"{name},a cat,1"])
    linked = [tmp_path / "page" / unquote(link) for link in page.all("a", "href") if "photo" in link]
    assert [path.resolve() for path in linked] == [tmp_path / name]


def test_the_page_loads_nothing_from_elsewhere(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    _, page = make(run, ledger, tmp_path, ["photo.png,a cat,1"])
    assert {tag for tag, _ in page.tags} & {"link", "iframe", "object", "embed", "base"} == set()
    assert page.all("script", "src") == []
    assert re.findall(r"(?:https?:)?//[a-z]|@import|url\(", page.html) == []


def test_texts_of_strangers_stay_texts(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    quoted = '"' + NASTY.replace('"', '""') + '"'
    _, page = make(run, ledger, tmp_path, [f"photo.png,{quoted},1"], failing={1}, error=NASTY)
    assert sum(tag == "script" for tag, _ in page.tags) == 1  # the page's own
    assert page.text.count(NASTY) == 2
    assert any(NASTY in alt for alt in page.all("img", "alt"))


def test_a_failed_job_is_shown_with_its_reason_and_its_parameters(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    _, page = make(run, ledger, tmp_path, ["photo.png,a cat,3"], failing={1}, error="it is no picture")
    assert page.all("article", "data-state") == ["failed"]
    assert "it is no picture" in page.text
    assert "num_samples3" in page.text.replace("\n", "").replace(" ", "")


def test_parameters_are_read_from_the_picture(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    _, page = make(run, ledger, tmp_path, ["photo.png,a cat,2"])
    text = page.text.replace("\n", "").replace(" ", "")
    assert "num_samples2" in text
    assert "ddim_steps20" in text


def test_an_input_that_is_gone_leaves_a_sentence_in_its_place(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    _, page = make(run, ledger, tmp_path, ["away.png,a cat,1"])
    assert f"not found from here: {tmp_path}/away.png" in page.text
    assert len([alt for alt in page.all("img", "alt") if alt]) == 2


def test_an_input_that_is_no_picture_leaves_a_sentence_in_its_place(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("not a picture")
    _, page = make(run, ledger, tmp_path, ["text.png,a cat,1"])
    assert "not a readable picture" in page.text


def test_a_bucket_is_not_linked_and_a_signature_is_not_shown(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("producer.gallery.thumbnails.read_bytes", lambda uri, limits: png("red"))
    signed = "https://example.org/photo.png?signature=SECRET"
    _, page = make(run, ledger, tmp_path, ["s3://bucket/photo.png,a cat,1", f"{signed},a dog,1"])
    assert "SECRET" not in page.html
    assert not any(link.startswith("s3:") for link in page.all("a", "href"))


def test_a_control_image_s_signature_is_not_shown_of_a_job_that_failed(
    run: Run, ledger: Ledger, tmp_path: Path
) -> None:
    (tmp_path / "photo.png").write_bytes(png("orange"))
    signed = "https://example.org/pose.png?signature=SECRET"
    write(tmp_path, f"image,prompt,control_image\nphoto.png,a cat,{signed}\n")
    run("submit", "jobs.csv")
    render_batch(ledger, "jobs", failing=(1,))
    assert run("gallery", "jobs", "--out", "page").code == 0
    page = Page(tmp_path / "page" / "index.html")
    assert "https://example.org/pose.png?signature=…" in page.text
    assert not any(b"SECRET" in path.read_bytes() for path in (tmp_path / "page").rglob("*") if path.is_file())


@pytest.mark.parametrize("format_", ["png", "jpeg", "webp"])
def test_results_of_every_format_are_shown_with_their_parameters(
    run: Run, ledger: Ledger, tmp_path: Path, format_: str
) -> None:
    (tmp_path / "photo.png").write_bytes(png("orange"))
    write(tmp_path, f"image,prompt,format,control,scale\nphoto.png,a cat,{format_},none,3.25\n")
    run("submit", "jobs.csv")
    render_batch(ledger, "jobs")
    assert run("gallery", "jobs", "--out", "page").code == 0
    page = Page(tmp_path / "page" / "index.html")
    assert page.all("img", "alt")[:3] == [
        "Input of row 1: a cat",
        "Hint of row 1: a cat",
        "Result of row 1: a cat",
    ]
    assert "3.25" in page.text
    assert all((tmp_path / "page" / unquote(source)).is_file() for source in page.all("img", "src"))


def test_jobs_still_to_come_are_counted(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\nphoto.png,a cat\n")
    run("submit", "jobs.csv")
    assert run("gallery", "jobs", "--out", "page").code == 0
    text = Page(tmp_path / "page/index.html").text
    assert "still to come" in text
    assert "No job of this batch has ended yet." in text


def test_many_jobs_make_several_pages_that_are_linked(
    run: Run, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery_module, "PAGE_JOBS", 2)
    ran, first = make(run, ledger, tmp_path, ["photo.png,a cat,1"] * 5)
    assert ran.record["pages"] == 3
    assert first.all("a", "rel") == ["next"]
    last = Page(tmp_path / "page/page-3.html")
    assert last.all("a", "rel") == ["prev"]
    assert "jobs 5 to 5 of 5 that ended" in last.text


def test_an_output_folder_that_cannot_be_made_is_an_error(run: Run, tmp_path: Path) -> None:
    write(tmp_path, "image,prompt\nphoto.png,a cat\n")
    run("submit", "jobs.csv")
    ran = run("gallery", "jobs", "--out", "jobs.csv")
    assert (ran.code, "File exists" in ran.stderr) == (6, True)


@pytest.fixture
def thumbnails(tmp_path: Path) -> Thumbnails:
    return Thumbnails(tmp_path / "small", FetchLimits(), max_pixels=1_000_000)


def test_small_copies_are_small_and_keep_their_shape(thumbnails: Thumbnails, tmp_path: Path) -> None:
    (tmp_path / "big.png").write_bytes(png("green", (1000, 500)))
    copy = thumbnails.of((tmp_path / "big.png").as_uri(), made_at=0)
    assert (copy.width, copy.height, copy.problem) == (448, 224, None)


def test_a_small_copy_is_made_once_and_again_when_its_picture_changes(thumbnails: Thumbnails, tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(png("green"))
    first = thumbnails.of(photo.as_uri(), made_at=time.time() - 60)
    assert first.path is not None
    assert thumbnails.of(photo.as_uri(), made_at=time.time() + 60, known=first) is first
    photo.write_bytes(png("red"))
    second = thumbnails.of(photo.as_uri(), made_at=time.time() - 60, known=first)
    assert second.path is not None
    with Image.open(second.path) as copy:
        assert copy.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


def test_a_small_copy_that_somebody_cut_is_made_again(thumbnails: Thumbnails, tmp_path: Path) -> None:
    photo = tmp_path / "a.png"
    photo.write_bytes(png("green", (1000, 500)))
    first = thumbnails.of(photo.as_uri(), made_at=0)
    assert first.path is not None
    whole = first.path.read_bytes()
    first.path.write_bytes(whole[:-20])
    for known in (first, None):  # None: the index was lost, too
        thumbnails.of(photo.as_uri(), made_at=0, known=known)
        assert first.path.read_bytes() == whole
        first.path.write_bytes(whole[:-20])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"])
def test_pictures_of_every_mode_get_a_small_copy(thumbnails: Thumbnails, tmp_path: Path, mode: str) -> None:
    path = tmp_path / "a.tiff"
    Image.new(mode, (20, 10)).save(path)
    assert thumbnails.of(path.as_uri(), made_at=0).problem is None


@pytest.mark.parametrize("depth", [10, 12, 14, 16])
def test_grey_of_more_than_eight_bits_is_shown_by_its_depth(thumbnails: Thumbnails, tmp_path: Path, depth: int) -> None:
    path = tmp_path / "deep.png"
    half, full = 2 ** (depth - 1), 2**depth - 1
    picture = Image.new("I;16", (64, 64), half)
    picture.putpixel((0, 0), full)  # `paste` writes other values in this mode
    picture.save(path)
    small = thumbnails.of(path.as_uri(), made_at=time.time())
    assert small.path is not None
    with Image.open(small.path) as copy:
        grey = copy.convert("L").getpixel((40, 40))
    assert grey == pytest.approx(128, abs=4)


def test_a_picture_of_too_many_pixels_is_not_decoded(thumbnails: Thumbnails, tmp_path: Path) -> None:
    Image.new("1", (20_000, 10_000)).save(tmp_path / "bomb.png")
    copy = thumbnails.of((tmp_path / "bomb.png").as_uri(), made_at=0)
    assert copy.path is None
    assert copy.problem is not None
    assert "not a readable picture" in copy.problem


def test_a_page_of_two_engine_sets_says_so_and_names_each_picture_s(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    rows = ["photo.png,a cat,1", "photo.png,a dog,1", "photo.png,a fox,1"]
    ran, page = make(run, ledger, tmp_path, rows, others=[2], failing=[3])
    sentence = "2 different engine sets drew these pictures: 1 by 000000000000 (some-model), 1 by 111111111111 (another"
    assert sentence in page.text
    assert sentence in ran.stderr
    assert [of["jobs"] for of in ran.record["engine_sets"]] == [1, 1]
    named = re.findall(r"<dt>engine set</dt><dd>(.*?)</dd>", page.html)
    assert named == ["000000000000 (some-model)", "111111111111 (another-model)"]


def test_a_page_of_one_engine_set_does_not_name_it(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    ran, page = make(run, ledger, tmp_path, ["photo.png,a cat,1", "photo.png,a dog,1"])
    assert "engine set" not in page.text + ran.stderr


def test_a_page_knows_what_was_not_counted(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    """All results are read for a page, so it does not depend on the counters."""
    rows = ["photo.png,a cat,1", "photo.png,a dog,1"]
    make(run, ledger, tmp_path, rows, others=[2])
    ledger.client.delete(batch_key("jobs", "engine_sets"))
    assert "2 different engine sets" in run("gallery", "jobs", "--out", "page").stderr
