"""Reading a part of a file: from folders, hosts and buckets, with ranges and without."""

from __future__ import annotations

import gzip
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from jobs.errors import NotAnImage, RenderError, SourceForbidden, SourceNotFound, SourceTooLarge, SourceUnavailable
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.file import FileStore
from jobs.storage.http import FetchLimits, HttpStore
from jobs.storage.memory import MemoryStore
from jobs.storage.part import Part
from jobs.storage.s3 import S3Store
from tests.jobs.web_server import Answer, reply, serving
from tests.own_s3_store import own_odd_store

DATA = bytes(range(256)) * 4
LIMITS = FetchLimits(timeout_seconds=5, max_bytes=2000, allow_hosts=("127.0.0.1",))


def knows_ranges(handler: BaseHTTPRequestHandler) -> None:
    first, _, last = handler.headers["Range"].removeprefix("bytes=").partition("-")
    if int(first) >= len(DATA):
        return reply(416, headers={"Content-Range": f"bytes */{len(DATA)}"})(handler)
    body = DATA[int(first) : int(last) + 1]
    sent = {"Content-Range": f"bytes {first}-{int(first) + len(body) - 1}/{len(DATA)}"}
    return reply(206, body, headers=sent)(handler)


ANSWERS: dict[str, Answer] = {
    "ranges": knows_ranges,
    "no ranges": reply(200, DATA),
    "no ranges and no length": reply(200, DATA, headers={"Content-Length": ""}),
    "compressed, and no ranges": reply(200, gzip.compress(DATA), headers={"Content-Encoding": "gzip"}),
}


def part(answer: Answer, start: int, size: int) -> Part:
    with serving({}, otherwise=answer) as url:
        return HttpStore(LIMITS).read_part(f"{url}/a.png", start=start, size=size)


@pytest.mark.parametrize("answer", ANSWERS.values(), ids=ANSWERS.keys())
@pytest.mark.parametrize(("start", "size"), [(0, 10), (300, 100), (1000, 100), (0, 5000), (1024, 5), (9000, 5)])
def test_any_host_gives_the_bytes_that_were_asked_for(answer: Answer, start: int, size: int) -> None:
    found = part(answer, start, size)
    assert found.data == DATA[start : start + size]
    assert found.total in (None, len(DATA))
    if answer in (ANSWERS["ranges"], ANSWERS["no ranges"]) and start < len(DATA):
        assert found.total == len(DATA)


def test_a_redirect_is_asked_for_the_same_part() -> None:
    with serving({"/a": reply(302, headers={"Location": "/b"}), "/b": knows_ranges}) as url:
        assert HttpStore(LIMITS).read_part(f"{url}/a", start=7, size=3).data == DATA[7:10]


REFUSED: dict[str, tuple[Answer, type[RenderError], str]] = {
    "another part": (reply(206, b"x" * 10, headers={"Content-Range": "bytes 5-14/1024"}), NotAnImage, "another part"),
    "no part": (reply(206, b"x" * 10), NotAnImage, "another part"),
    "a compressed part": (
        reply(206, b"x", headers={"Content-Range": "bytes 0-0/9", "Content-Encoding": "gzip"}),
        NotAnImage,
        "another part",
    ),
    "of a file that is too large": (
        reply(206, b"x", headers={"Content-Range": "bytes 0-0/99999"}),
        SourceTooLarge,
        "larger than 2,000 bytes",
    ),
    "all of a file that is too large": (reply(200, b"x" * 3000), SourceTooLarge, "larger than 2,000 bytes"),
    "nothing": (reply(404), SourceNotFound, "404"),
    "no right": (reply(403), SourceForbidden, "403"),
    "no time": (reply(503), SourceUnavailable, "503"),
    "half of it": (
        reply(206, b"x" * 10, headers={"Content-Range": "bytes 0-99/100", "Content-Length": "100"}),
        SourceUnavailable,
        "broke off after 10 of 100 bytes|could not be read",
    ),
}


@pytest.mark.parametrize(("answer", "error", "why"), REFUSED.values(), ids=REFUSED.keys())
def test_a_host_that_answers_otherwise_is_refused(answer: Answer, error: type[RenderError], why: str) -> None:
    with pytest.raises(error, match=why):
        part(answer, 0, 100)


def test_a_stream_without_end_is_read_up_to_the_part() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        while True:
            handler.wfile.write(b"y" * 50_000)

    assert part(endless, 10, 20) == Part(b"y" * 20, None)
    with pytest.raises(SourceTooLarge):
        part(endless, 1990, 20)


def test_private_hosts_are_refused_for_parts_too() -> None:
    with pytest.raises(SourceForbidden, match="RENDER_ALLOW_HOSTS"):
        HttpStore(FetchLimits()).read_part("http://127.0.0.1:1/a.png", start=0, size=9)


def test_a_file_gives_parts_within_its_policy(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(DATA)
    store = FileStore(LIMITS)
    assert store.read_part(path.as_uri(), start=300, size=10) == Part(DATA[300:310], 1024)
    assert store.read_part(path.as_uri(), start=2000, size=10) == Part(b"", 1024)
    path.write_bytes(b"x" * 2001)
    with pytest.raises(SourceTooLarge, match="RENDER_FETCH_MAX_BYTES"):
        store.read_part(path.as_uri(), start=0, size=10)
    with pytest.raises(SourceForbidden, match="RENDER_ALLOW_FOLDERS"):
        FileStore(FetchLimits(policy=AccessPolicy())).read_part(path.as_uri(), start=0, size=10)


@pytest.mark.parametrize("ranges", [True, False])
def test_a_bucket_gives_parts_whether_it_knows_ranges_or_not(
    ranges: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with own_odd_store(monkeypatch, tmp_path) as bucket:
        bucket.ranges = ranges
        bucket.objects |= {"/b/a.png": DATA, "/b/large.png": b"x" * 2001}
        store = S3Store(LIMITS)
        assert store.read_part("s3://b/a.png", start=300, size=10) == Part(DATA[300:310], 1024)
        assert store.read_part("s3://b/a.png", start=0, size=5000) == Part(DATA, 1024)
        assert store.read_part("s3://b/a.png", start=2000, size=10).data == b""
        with pytest.raises(SourceTooLarge):
            store.read_part("s3://b/large.png", start=0, size=10)
        with pytest.raises(SourceNotFound):
            store.read_part("s3://b/none.png", start=0, size=10)
        with pytest.raises(SourceForbidden, match="RENDER_ALLOW_BUCKETS"):
            S3Store(FetchLimits(policy=AccessPolicy(buckets=("other",)))).read_part("s3://b/a.png", start=0, size=1)


def test_the_store_of_tests_gives_parts_too() -> None:
    store = MemoryStore()
    store.write("s3://b/a", DATA, "image/png")
    assert store.read_part("s3://b/a", start=1, size=2) == Part(DATA[1:3], 1024)
