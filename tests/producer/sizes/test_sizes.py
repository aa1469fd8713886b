"""`producer sizes`: the sizes of a file's rows, what is said of them, and what `engines build` takes of it."""

from __future__ import annotations

import json
import threading
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from engines.shapes_file import read_shapes
from engines.spec import Profile
from jobs.errors import NotAnImage, SourceNotFound, SourceUnavailable
from jobs.settings import load_settings
from producer.sizes import survey as survey_module
from producer.sizes.pictures import TRIES_OF_A_HOST, Pictures
from producer.sizes.ranges import ranges
from producer.sizes.survey import survey
from producer.sizes.tally import Size, Tally, Wanted
from tests.jobs.web_server import reply, serving
from tests.odd_s3_store import OddStore
from tests.producer.conftest import Run
from tests.producer.headers.files import saved, workers_size
from tests.producer.tables import write
from worker.image.canny import resize_image, three_channels
from worker.image.decode import decode_image

LANDSCAPE, PORTRAIT, SQUARE = (640, 480), (480, 640), (500, 500)


def rendered(data: bytes, resolution: int) -> list[int]:
    """Height and width that a worker renders a picture at."""
    pixels = three_channels(decode_image(data, max_pixels=10**7).pixels)
    return list(resize_image(pixels, resolution).shape[:2])


def test_the_sizes_are_those_that_a_worker_renders_and_pictures_count_samples(run: Run, tmp_path: Path) -> None:
    files = {
        "a.jpg": saved("JPEG", LANDSCAPE, orientation=6),
        "b.png": saved("PNG", PORTRAIT),
        "c.webp": saved("WEBP", LANDSCAPE, orientation=1),
        "d.gif": saved("GIF", SQUARE),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    rows = [("a.jpg", 512, 1), ("b.png", 512, 3), ("c.webp", 256, 2), ("d.gif", 512, 1), ("a.jpg", 256, 1)]
    write(tmp_path, "image,prompt,image_resolution,num_samples\n" + "".join(f"{n},x,{r},{s}\n" for n, r, s in rows))
    ran = run("sizes", "jobs.csv")
    assert ran.code == 0
    expected = Counter[tuple[int, ...]]()
    for name, resolution, samples in rows:
        expected[tuple(rendered(files[name], resolution))] += samples
    found = {(each["height"], each["width"]): each["pictures"] for each in ran.record["sizes"]}
    assert found == expected
    assert [each["pictures"] for each in ran.record["sizes"]] == sorted(expected.values(), reverse=True)
    assert (ran.record["rows"], ran.record["measured"], ran.record["unread"]) == (5, 5, [])
    assert "704 x 512" in ran.stderr
    assert "An engine set for 4 sizes: engines build ... --shape 256x320 " in ran.stderr


def test_rows_without_a_size_are_counted_with_their_reasons(run: Run, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(saved("PNG"))
    (tmp_path / "text.png").write_bytes(b"no picture")
    (tmp_path / "thin.png").write_bytes(saved("PNG", (2000, 3)))
    (tmp_path / "folder.png").mkdir()
    names = [
        "good.png",
        "text.png",
        "text.png",
        "thin.png",
        "gone.png",
        "http://user:pass@127.0.0.1:9/x.png?sig=s3cret",
    ]
    write(tmp_path, "image,prompt\n" + "".join(f"{name},x\n" for name in names))
    ran = run("sizes", "jobs.csv")
    assert ran.code == 0
    unread = {each["reason"]: each for each in ran.record["unread"]}
    assert {reason: each["rows"] for reason, each in unread.items()} == {
        "not_an_image": 2, "source_too_large": 1, "source_not_found": 1, "source_forbidden": 1,
    }  # fmt: skip
    assert unread["not_an_image"]["first_row"] == 2
    assert unread["not_an_image"]["picture"].endswith("text.png")
    assert "no side may exceed 4096" in unread["source_too_large"]["sentence"]
    assert "2 rows without a size (not_an_image); the first is row 2" in ran.stderr
    assert "RENDER_ALLOW_HOSTS" in ran.stderr
    assert "s3cret" not in ran.stdout + ran.stderr
    assert "pass@" not in ran.stdout + ran.stderr


def test_rows_with_mistakes_are_those_of_submit_and_the_others_are_counted(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved("PNG", SQUARE))
    text = "image,prompt,ddim_steps\na.png,x,20\na.png,x,0\na.png,,20\n"
    write(tmp_path, text)
    ran, submitted = run("sizes", "jobs.csv"), run("submit", "jobs.csv", "--dry-run")
    assert (ran.code, submitted.code) == (3, 3)
    assert ran.record["problems"] == submitted.record["problems"]
    assert (ran.record["rejected"], ran.record["measured"]) == (2, 1)
    assert "jobs.csv:3: ddim_steps: '0' is out of range" in ran.stderr
    assert "producer submit would refuse the file" in ran.stderr
    assert run("sizes", write(tmp_path, "a,b\n1,2\n")).code == 3
    assert run("sizes", "none.csv").code == 5
    assert run("sizes", write(tmp_path, "image,prompt\n")).record["shapes"] == []


def test_standard_input_is_read(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved("PNG", SQUARE))
    ran = run("sizes", "-", "--cover", "0.5", stdin="image,prompt\na.png,x\n")
    assert ran.record["shapes"] == ranges([Size(512, 512)]) == ["512x512"]


def test_every_source_of_submit_has_sizes(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.png").write_bytes(saved("PNG", SQUARE))
    (folder / "notes.txt").write_text("no picture")
    (tmp_path / "rows.jsonl").write_text('{"image": "photos/a.png", "prompt": "x", "image_resolution": 256}\n')
    of_folder, of_lines = run("sizes", "photos"), run("sizes", "rows.jsonl")
    assert (of_folder.code, of_folder.record["shapes"], of_folder.record["rows"]) == (0, ["512x512"], 1)
    assert (of_lines.code, of_lines.record["shapes"], of_lines.record["rows"]) == (0, ["256x256"], 1)
    piped = run("sizes", "-", "--input-format", "jsonl", stdin='{"image": "photos/a.png", "prompt": "x"}\n')
    assert piped.record["shapes"] == ["512x512"]


def test_a_file_that_needs_options_of_submit_takes_them_here(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved("PNG", SQUARE))
    write(tmp_path, "image,quality\na.png,80\n")
    assert run("sizes", "jobs.csv").code == 3
    ran = run("sizes", "jobs.csv", "--prompt", "x", "--format", "jpeg")
    assert (ran.code, ran.record["shapes"]) == (0, ["512x512"])
    assert run("sizes", tmp_path.as_uri()).record["shapes"] == ["512x512"]  # a folder by its URI needs none


def test_hosts_and_buckets_are_asked_for_headers_only(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: OddStore
) -> None:
    monkeypatch.setenv("RENDER_ALLOW_HOSTS", "127.0.0.1")
    large = saved("JPEG", LANDSCAPE) + b"\0" * 3_000_000
    asked: list[str | None] = []

    def host(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.headers["Range"])
        first, _, last = handler.headers["Range"].removeprefix("bytes=").partition("-")
        body = large[int(first) : int(last) + 1]
        place = {"Content-Range": f"bytes {first}-{int(first) + len(body) - 1}/{len(large)}"}
        reply(206, body, headers=place)(handler)

    empty_store.objects["/pictures/b.png"] = saved("PNG", PORTRAIT)
    with serving({"/a.jpg": host, "/c.jpg": reply(200, large)}) as url:
        write(tmp_path, f"image,prompt\n{url}/a.jpg,x\n{url}/c.jpg,x\n{url}/none.jpg,x\ns3://pictures/b.png,x\n")
        ran = run("sizes", "jobs.csv")
    assert asked == [f"bytes=0-{2**16 - 1}"]
    assert {(each["height"], each["width"]): each["rows"] for each in ran.record["sizes"]} == {
        (512, 704): 2, (704, 512): 1,
    }  # fmt: skip
    assert [(each["reason"], each["rows"]) for each in ran.record["unread"]] == [("source_not_found", 1)]


def test_the_limits_of_a_worker_hold(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(saved("PNG", SQUARE))
    write(tmp_path, "image,prompt\na.png,x\n")
    for variable, value in (("MAX_PIXELS", "1000"), ("FETCH_MAX_BYTES", "50"), ("ALLOW_FOLDERS", "/srv")):
        with monkeypatch.context() as patch:
            patch.setenv(f"RENDER_{variable}", value)
            ran = run("sizes", "jobs.csv")
        assert ran.record["measured"] == 0
        assert f"RENDER_{variable}" in ran.record["unread"][0]["sentence"]
        assert "No size is known of any row of jobs.csv" in ran.stderr


def test_a_host_that_is_away_is_not_asked_for_every_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RENDER_ALLOW_HOSTS", "127.0.0.1")
    monkeypatch.setenv("RENDER_RETRY_ATTEMPTS", "1")
    asked = []

    def away(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        reply(503)(handler)

    with serving({"/good.png": reply(200, saved("PNG"))}, otherwise=away) as url:
        pictures = Pictures(load_settings())
        for number in range(TRIES_OF_A_HOST - 1):
            with pytest.raises(SourceUnavailable):
                pictures.size_of(f"{url}/{number}.png")
        assert pictures.size_of(f"{url}/good.png") == (70, 33)  # which starts the count again
        for number in range(2 * TRIES_OF_A_HOST):
            with pytest.raises(SourceUnavailable, match="503" if number < TRIES_OF_A_HOST else "is not asked again"):
                pictures.size_of(f"{url}/{number}.png")
    assert len(asked) == 2 * TRIES_OF_A_HOST - 1


WANTED = Wanted(512, 1)


def test_rows_that_name_one_picture_ask_for_it_once() -> None:
    asked: Counter[str] = Counter()

    def size_of(uri: str) -> tuple[int, int]:
        asked[uri] += 1
        if uri == "bad":
            raise NotAnImage("no")
        return 100, 100

    rows = [(n, uri, Wanted(512, 1 + n % 2)) for n, uri in enumerate(["a", "bad", "a", "b"] * 500)]
    tally = survey(rows, size_of, tick=lambda _: None)
    assert asked == {"a": 1, "b": 1, "bad": 1}
    assert tally.rows == {Size(512, 512): 1500}
    assert tally.pictures == {Size(512, 512): 2000}
    assert (tally.unread["not_an_image"].rows, tally.unread_rows) == (500, 500)
    assert tally.unread["not_an_image"].first_row == 1


def test_many_are_read_at_once() -> None:
    together = threading.Barrier(survey_module.THREADS)

    def size_of(uri: str) -> tuple[int, int]:
        together.wait(30)
        return 64, 64

    tally = survey([(n, str(n), WANTED) for n in range(survey_module.THREADS)], size_of, tick=lambda _: None)
    assert tally.rows.total() == survey_module.THREADS


def test_an_error_of_ours_or_of_the_rows_ends_it() -> None:
    def broken(uri: str) -> tuple[int, int]:
        raise ZeroDivisionError(uri)

    with pytest.raises(ZeroDivisionError):
        survey([(0, "a", WANTED)], broken, tick=lambda _: None)

    def rows() -> Iterator[tuple[int, str, Wanted]]:
        yield 0, "a", WANTED
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        survey(rows(), lambda _: (1, 1), tick=lambda _: None)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("sizes-") and not thread.daemon]


def peak_bytes(rows: int) -> int:
    """The most memory that so many rows, each with a picture of its own, take."""

    def size_of(uri: str) -> tuple[int, int]:
        if uri.endswith("7"):
            raise SourceNotFound(f"{uri} does not exist")
        return 100 + len(uri), 100

    tracemalloc.start()
    try:
        survey(((n, f"https://pictures.example/{n}", WANTED) for n in range(rows)), size_of, tick=lambda _: None)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(survey_module, "REMEMBERED", 200)
    assert peak_bytes(15_000) < 2 * peak_bytes(1_500)  # it varies with what 32 threads happen to do


def test_sizes_are_chosen_by_their_share() -> None:
    tally = Tally(pictures=Counter({Size(512, 512): 90, Size(512, 768): 6, Size(768, 512): 3, Size(512, 1024): 1}))
    assert tally.covering(1) == [Size(512, 512), Size(512, 768), Size(768, 512), Size(512, 1024)]
    assert tally.covering(0.96) == [Size(512, 512), Size(512, 768)]
    assert tally.covering(0.5) == tally.covering(0) == [Size(512, 512)]
    assert tally.share_of(tally.covering(0.96)) == pytest.approx(0.96)
    assert Tally().covering(1) == []


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], []),
        ([(512, 512)], ["512x512"]),
        ([(512, 768), (512, 512)], ["512x512:512x768"]),
        ([(512, 512), (768, 512)], ["512x512:768x512"]),
        ([(512, 640), (512, 512), (832, 512), (512, 1024)], ["512x512:512x1024", "832x512"]),
        ([(256, 320), (512, 768), (512, 896)], ["256x320", "512x768:512x896"]),
    ],
)
def test_ranges_have_one_side_in_common(sizes: list[tuple[int, int]], expected: list[str]) -> None:
    known = [Size(*size) for size in sizes]
    found = ranges(known)
    assert found == expected
    profiles = [Profile.parse(text, max_batch=1) for text in found]
    assert all(any(profile.covers(*size) for profile in profiles) for size in known)
    largest = max((height * width for height, width in sizes), default=0)
    assert all(profile.max_height * profile.max_width <= largest for profile in profiles)


def test_what_it_prints_is_what_engines_build_takes(run: Run, tmp_path: Path) -> None:
    for name, size in (("a.png", LANDSCAPE), ("b.png", PORTRAIT), ("c.png", (900, 480))):
        (tmp_path / name).write_bytes(saved("PNG", size))
        assert workers_size((tmp_path / name).read_bytes()) == size
    write(tmp_path, "image,prompt\na.png,x\na.png,x\nb.png,x\nc.png,x\n")
    ran = run("sizes", "jobs.csv", "--cover", "0.99")
    file = tmp_path / "sizes.json"
    file.write_text(ran.stdout)
    assert read_shapes(file, ranges=False) == ["512x704", "512x960", "704x512"]
    assert read_shapes(file, ranges=True) == ["512x704:512x960", "704x512"]
    assert json.loads(ran.stdout)["covered"] == 1
