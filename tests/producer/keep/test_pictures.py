"""Small copies: only of results that the ledger names, in their batch's output, where a worker might have written."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from jobs.job import RenderJob, RenderResult
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from producer.keep import pictures as module
from producer.keep.pictures import Busy, Pictures, is_within
from tests.jobs.rows import enqueue, make_job, make_result
from tests.producer.renderer import png


@pytest.fixture
def pictures(ledger: Ledger, tmp_path: Path) -> Pictures:
    return Pictures(ledger, Settings(allow_folders=(str(tmp_path),)))


def done(ledger: Ledger, folder: Path, *samples: str, batch: str = "b") -> RenderJob:
    """A done job whose result names these pictures."""
    job = make_job(1, batch=batch, output=folder.as_uri())
    enqueue(ledger, [job])
    ledger.start(job, worker="w")
    result = RenderResult(id=job.id, batch=batch, row=1, state="done", image="x", prompt="p", seed=1, samples=samples)
    ledger.finish(result)
    return job


def written(folder: Path, name: str, data: bytes) -> str:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path.as_uri()


def test_a_large_picture_becomes_a_small_one(pictures: Pictures, ledger: Ledger, tmp_path: Path) -> None:
    job = done(ledger, tmp_path, written(tmp_path, "b/a.png", png("teal", (1500, 1000))))
    copy = pictures.of("b", job.id, 0)
    assert copy.problem is None
    assert copy.content_type == "image/jpeg"
    with Image.open(io.BytesIO(copy.data)) as image:
        assert max(image.size) == 448


def test_a_copy_holds_no_text_of_its_picture(pictures: Pictures, ledger: Ledger, tmp_path: Path) -> None:
    job = done(ledger, tmp_path, written(tmp_path, "b/a.png", png("teal", render='{"prompt": "secret"}')))
    copy = pictures.of("b", job.id, 0)
    assert copy.content_type == "image/png"
    assert b"secret" not in copy.data


def test_a_copy_is_kept_and_a_problem_is_looked_at_again(
    pictures: Pictures, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = done(ledger, tmp_path, (tmp_path / "b" / "a.png").as_uri())
    assert "cannot be read from here" in (pictures.of("b", job.id, 0).problem or "")
    written(tmp_path, "b/a.png", png("teal"))
    assert pictures.of("b", job.id, 0).problem is not None
    monkeypatch.setattr(module, "PROBLEM_SECONDS", -1.0)
    copy = pictures.of("b", job.id, 0)
    assert copy.problem is None
    (tmp_path / "b" / "a.png").unlink()
    assert pictures.of("b", job.id, 0) is copy


def test_memory_is_bounded(pictures: Pictures, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [written(tmp_path, f"b/{i}.png", png("teal", (100 + i, 100))) for i in range(12)]
    job = done(ledger, tmp_path, *names)
    monkeypatch.setattr(module, "CACHE_BYTES", 3000)
    for sample in range(12):
        assert pictures.of("b", job.id, sample).problem is None
    cache = pictures._cache
    assert 0 < cache._bytes <= 3000
    assert list(cache._copies)[-1] == ("b", job.id, 11)
    assert len(cache._copies) < 12


@pytest.mark.parametrize("sample", [1, 12, 99])
def test_a_sample_that_is_not_there(pictures: Pictures, ledger: Ledger, tmp_path: Path, sample: int) -> None:
    job = done(ledger, tmp_path, written(tmp_path, "b/a.png", png("teal")))
    assert pictures.of("b", job.id, sample).problem == "there is no such picture"
    assert pictures.of("b", "0" * 20, 0).problem == "there is no such picture"
    assert pictures.of("other", job.id, 0).problem == "there is no such picture"


@pytest.mark.parametrize("place", ["a.png", "b/../a.png", "b/%2e%2e/a.png", "bb/a.png", "c/a.png"])
def test_a_picture_outside_its_batchs_output_is_not_read(
    pictures: Pictures, ledger: Ledger, tmp_path: Path, place: str
) -> None:
    for name in ("a.png", "bb/a.png", "c/a.png", "b/a.png"):
        written(tmp_path, name, png("teal"))
    job = done(ledger, tmp_path, f"{tmp_path.as_uri()}/{place}")
    assert "not in its batch's output" in (pictures.of("b", job.id, 0).problem or "")


@pytest.mark.parametrize(
    "uri",
    [
        "http://169.254.169.254/latest/meta-data",
        "https://other.example/a.png",
        "s3://other/b/a.png",
        "s3://bucket/renders-b/a.png",
        "file:///etc/passwd",
        "ftp://x/a",
        "",
    ],
)
def test_other_places(uri: str) -> None:
    assert not is_within(uri, "s3://bucket/renders/b")
    assert not is_within(uri, "file:///renders/b")


def test_places_within() -> None:
    assert is_within("s3://bucket/renders/b/a.png", "s3://bucket/renders/b")
    assert is_within("file:///renders/b/a%20b.png", "file:///renders/b")


@pytest.mark.parametrize(
    ("settings", "is_shown"),
    [
        (Settings(), False),
        (Settings(output_uri="s3://prod/renders", allow_buckets=("prod",)), False),
        (Settings(output_uri="HERE/other", allow_folders=("HERE/others",)), False),
        (Settings(output_uri="HERE/home"), True),
        (Settings(allow_folders=("HERE",)), True),
    ],
)
def test_only_what_a_worker_of_these_settings_might_have_written_is_shown(
    ledger: Ledger, tmp_path: Path, settings: Settings, is_shown: bool
) -> None:
    """Anyone who can write to Redis can name any folder as a batch's output."""
    job = done(ledger, tmp_path / "home", written(tmp_path, "home/b/a.png", png("teal")))
    here = settings.model_copy(
        update={
            "output_uri": settings.output_uri.replace("HERE", str(tmp_path)),
            "allow_folders": tuple(folder.replace("HERE", str(tmp_path)) for folder in settings.allow_folders),
        }
    )
    copy = Pictures(ledger, here).of("b", job.id, 0)
    assert copy.problem == (None if is_shown else module.FORBIDDEN)


def test_a_link_does_not_lead_out_of_what_is_allowed(pictures: Pictures, ledger: Ledger, tmp_path: Path) -> None:
    written(tmp_path.parent, f"{tmp_path.name}-private/a.png", png("teal"))
    (tmp_path / "b").symlink_to(tmp_path.parent / f"{tmp_path.name}-private")
    job = done(ledger, tmp_path, f"{tmp_path.as_uri()}/b/a.png")
    assert pictures.of("b", job.id, 0).problem == module.FORBIDDEN


def test_a_bucket_that_is_not_allowed_is_not_asked(ledger: Ledger, tmp_path: Path) -> None:
    job = make_job(1, output="s3://other/renders")
    enqueue(ledger, [job])
    ledger.finish(make_result(job).model_copy(update={"samples": ("s3://other/renders/b/a.png",)}))
    settings = Settings(output_uri="s3://prod/renders", allow_buckets=("prod",))
    assert Pictures(ledger, settings).of("b", job.id, 0).problem == module.FORBIDDEN


@pytest.mark.parametrize("data", [b"", b"root:x:0:0", b"\x89PNG\r\n\x1a\n", b"GIF89a" + bytes(20), png("teal")[:100]])
def test_what_is_no_picture_says_so(pictures: Pictures, ledger: Ledger, tmp_path: Path, data: bytes) -> None:
    job = done(ledger, tmp_path, written(tmp_path, "b/a.png", data))
    problem = pictures.of("b", job.id, 0).problem or ""
    assert "the picture cannot be read" in problem
    assert "root" not in problem


def test_a_bomb_is_not_decoded(
    pictures: Pictures, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PIXELS", 5000)
    job = done(ledger, tmp_path, written(tmp_path, "b/a.png", png("teal")))
    assert "more than the 5,000" in (pictures.of("b", job.id, 0).problem or "")


def test_too_many_at_once_are_told_so(
    pictures: Pictures, ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = done(ledger, tmp_path, written(tmp_path, "b/a.png", png("teal")))
    monkeypatch.setattr(module, "WAIT_SECONDS", 0.01)
    with pictures._making, pictures._making, pytest.raises(Busy):
        pictures.of("b", job.id, 0)
    assert pictures.of("b", job.id, 0).problem is None
