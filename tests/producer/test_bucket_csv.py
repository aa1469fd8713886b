"""`producer submit s3://bucket/folder/jobs.csv`: a CSV in a bucket, whose relative images are beside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from producer.bucket_csv import local_or_bucket
from producer.exits import CommandFailed
from tests.odd_s3_store import OddStore, Refusal
from tests.producer.conftest import Run
from tests.producer.tables import write

CSV = "s3://pictures/in/spring/jobs.csv"
PATH = "/pictures/in/spring/jobs.csv"
GOOD = "image,prompt,seed\na.png,a cat,1\nmore/b.png,a dog,2\n/srv/c.png,a bird,3\n"


@pytest.fixture
def store(empty_store: OddStore, monkeypatch: pytest.MonkeyPatch) -> OddStore:
    """A bucket with one CSV in it."""
    monkeypatch.setattr("producer.bucket_csv.TRIES", 2)
    empty_store.objects[PATH] = GOOD.encode()
    return empty_store


def images(ledger: Ledger, batch: str = "jobs") -> set[str]:
    return {job.parameters.image for line in ledger.states(batch) if (job := ledger.job(batch, line.id))}


def test_a_csv_in_a_bucket_is_submitted_and_its_relative_images_are_beside_it(
    run: Run, ledger: Ledger, store: OddStore
) -> None:
    ran = run("submit", CSV)
    assert (ran.code, ran.record["batch"], ran.record["source"], ran.record["enqueued"]) == (0, "jobs", CSV, 3)
    assert images(ledger) == {
        "s3://pictures/in/spring/a.png",
        "s3://pictures/in/spring/more/b.png",
        "file:///srv/c.png",
    }
    info = ledger.batch("jobs")
    assert info is not None
    assert info.source == CSV


def test_it_is_resumed_by_submitting_it_again_and_corrected_likewise(run: Run, ledger: Ledger, store: OddStore) -> None:
    run("submit", CSV)
    again = run("submit", CSV)
    assert (again.record["enqueued"], again.record["already"]["queued"]) == (0, 3)
    store.objects[PATH] = GOOD.replace("a dog", "a big dog").encode()
    corrected = run("submit", CSV)
    assert (corrected.record["enqueued"], corrected.record["replaced"]) == (1, 1)
    assert "was begun from" not in corrected.stderr
    assert ledger.counts("jobs") == Counts(queued=3, superseded=1)


def test_the_same_rows_in_a_bucket_and_on_the_disk_are_two_sources(
    run: Run, ledger: Ledger, store: OddStore, tmp_path: Path
) -> None:
    write(tmp_path, GOOD)
    run("submit", CSV)
    ran = run("submit", "jobs.csv")
    assert f"batch 'jobs' was begun from {CSV}; the rows of this file join it" in ran.stderr
    assert ledger.counts("jobs").queued == 5  # the third row names the same picture in both


def test_the_scheme_may_have_any_case_and_the_csv_be_at_the_top(run: Run, ledger: Ledger, store: OddStore) -> None:
    store.objects["/pictures/my jobs (2).csv"] = b"image,prompt\n../a.png,x\nb b.png,x\n"
    ran = run("submit", "S3://pictures/my jobs (2).csv")
    assert ran.code == 3
    assert "s3://pictures/my jobs (2).csv:2: image: '../a.png' leads out of the bucket 'pictures'" in ran.stderr
    store.objects["/pictures/my jobs (2).csv"] = b"image,prompt\nb b.png,x\n"
    assert run("submit", "S3://pictures/my jobs (2).csv").record["batch"] == "my-jobs-2"
    assert images(ledger, "my-jobs-2") == {"s3://pictures/b b.png"}


@pytest.mark.parametrize(
    ("cell", "image"),
    [
        ("../winter/a.png", "s3://pictures/in/winter/a.png"),
        ("./a.png", "s3://pictures/in/spring/a.png"),
        ("a/./b/../c.png", "s3://pictures/in/spring/a/c.png"),
        ("50% off #1?.png", "s3://pictures/in/spring/50% off #1?.png"),
        ("scan:2.png", "s3://pictures/in/spring/scan:2.png"),
        ("ü/日本.png", "s3://pictures/in/spring/ü/日本.png"),
        ("a//b.png", "s3://pictures/in/spring/a//b.png"),
        ("s3://other/x.png", "s3://other/x.png"),
        ("https://example.com/x.png", "https://example.com/x.png"),
        ("file:///srv/x.png", "file:///srv/x.png"),
        ("~/x.png", "file:///home/me/x.png"),
    ],
)
def test_images_of_a_csv_in_a_bucket(
    run: Run, ledger: Ledger, store: OddStore, monkeypatch: pytest.MonkeyPatch, cell: str, image: str
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    store.objects[PATH] = f"image,prompt\n{cell},x\n".encode()
    assert run("submit", CSV).code == 0
    assert images(ledger) == {image}


@pytest.mark.parametrize(
    ("cell", "sentence"),
    [
        ("../../../a.png", "'../../../a.png' leads out of the bucket 'pictures'; write s3://bucket/key"),
        (
            "file://a.png",
            "'file://a.png' names no folder to start from, and the CSV is in a bucket; write the name alone",
        ),
        ("more/", "'more/' names a folder; name a picture"),
        ("..", "names a folder; name a picture"),
        (
            "é" * 600,
            "is too long: a key in a bucket has at most 1,024 bytes, and with the CSV's folder this one has 1,210",
        ),
        (r"C:\\a.png", "is a path of Windows"),
        ("s3:/b/a.png", "a URI lacks slashes behind s3:; write 's3://b/a.png'"),
    ],
)
def test_what_no_image_of_a_csv_in_a_bucket_can_be(run: Run, store: OddStore, cell: str, sentence: str) -> None:
    store.objects[PATH] = f"image,prompt\ngood.png,x\n{cell},x\n".encode()
    ran = run("submit", CSV)
    assert ran.code == 3
    assert f"{CSV}:3: image: " in ran.stderr
    assert sentence in ran.stderr


def test_rows_that_are_left_out_are_written_beside_the_csv(run: Run, ledger: Ledger, store: OddStore) -> None:
    store.objects[PATH] = GOOD.replace("dog,2", "dog,two").encode()
    ran = run("submit", CSV, "--skip-invalid")
    rejected = "s3://pictures/in/spring/jobs.rejected.csv"
    assert (ran.code, ran.record["enqueued"], ran.record["rejected_file"]) == (0, 2, rejected)
    assert f"{CSV}:3: seed: 'two' is not a whole number" in ran.stderr
    assert f"written with the reasons to {rejected}. Correct them in {CSV} itself" in ran.stderr
    lines = store.objects["/pictures/in/spring/jobs.rejected.csv"].decode().splitlines()
    assert lines[0] == "line,reason,image,prompt,seed"
    assert lines[1].startswith("3,")
    assert lines[1].endswith("more/b.png,a dog,two")
    assert ledger.counts("jobs").queued == 2


def test_rows_that_cannot_be_written_beside_the_csv_stop_the_submission(
    run: Run, ledger: Ledger, store: OddStore
) -> None:
    store.objects[PATH] = GOOD.replace("dog,2", "dog,two").encode()
    store.refuse = lambda method, path, key: Refusal(403, "AccessDenied") if method == "PUT" else None
    ran = run("submit", CSV, "--skip-invalid")
    assert (ran.code, ledger.batches()) == (6, [])
    assert "jobs.rejected.csv may not be written: AccessDenied; the AWS keys of this machine lack" in ran.stderr


def test_without_bad_rows_nothing_is_written_beside_the_csv(run: Run, store: OddStore) -> None:
    assert run("submit", CSV, "--skip-invalid", "--dry-run").code == 0
    assert list(store.objects) == [PATH]


@pytest.mark.parametrize(
    ("refusal", "code", "sentence"),
    [
        (Refusal(404, "NoSuchKey"), 5, f"{CSV} does not exist (NoSuchKey)"),
        (Refusal(404, "NoSuchBucket"), 5, f"{CSV} does not exist (NoSuchBucket)"),
        (Refusal(403, "AccessDenied"), 6, f"{CSV} may not be read: AccessDenied; the AWS keys of this machine lack"),
        (Refusal(403, "InvalidAccessKeyId"), 6, "the AWS keys of this machine are missing, wrong or expired"),
        (Refusal(301, "PermanentRedirect"), 6, "the bucket 'pictures' is in another region"),
        (Refusal(503, "SlowDown"), 6, f"{CSV} could not be read: SlowDown"),
    ],
)
def test_a_csv_that_cannot_be_read_is_a_sentence(
    run: Run, ledger: Ledger, store: OddStore, refusal: Refusal, code: int, sentence: str
) -> None:
    store.refuse = lambda method, path, key: refusal
    ran = run("submit", CSV)
    assert (ran.code, ledger.batches()) == (code, [])
    assert sentence in ran.stderr


def test_no_keys_at_all_are_a_sentence(run: Run, store: OddStore, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    environment |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path), "AWS_DEFAULT_REGION": "us-east-1"}
    command = [sys.executable, "-m", "producer", "submit", CSV]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 6
    assert f"{CSV} may not be read: the AWS keys of this machine are missing" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_download_that_breaks_off_is_begun_again(run: Run, store: OddStore) -> None:
    answers = iter([Refusal(503, "SlowDown"), Refusal(503, "SlowDown")])
    store.refuse = lambda method, path, key: next(answers, None) if path == PATH else None
    assert run("submit", CSV).record["enqueued"] == 3


def test_a_full_disk_is_a_sentence(run: Run, ledger: Ledger, store: OddStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/dev/full")
    ran = run("submit", CSV)
    assert (ran.code, ledger.batches()) == (6, [])
    assert "/dev/full" in ran.stderr


def test_nothing_stays_in_the_temporary_folder(
    run: Run, store: OddStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert run("submit", CSV).code == 0
    store.objects[PATH] = b"image,prompt\na.png,\n"
    assert run("submit", CSV).code == 3
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_large_csv_is_read_whole(run: Run, ledger: Ledger, store: OddStore) -> None:
    rows = 3_000
    store.objects[PATH] = ("image,prompt\n" + "".join(f"{row}.png,{'x' * 1000}\n" for row in range(rows))).encode()
    assert run("submit", CSV, "--dry-run").record["rows"] == rows


def test_what_is_no_csv_is_a_sentence_with_the_uri(run: Run, store: OddStore) -> None:
    store.objects[PATH] = "image,prompt\na.png,ein Café\n".encode("cp1252")
    assert f"{CSV}:2: byte 0xE9 is not UTF-8" in run("submit", CSV).stderr
    store.objects[PATH] = b""
    assert f"{CSV}:1: the file is empty" in run("submit", CSV).stderr


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("s3://pictures", "s3://pictures/ is a folder: give its pictures a prompt"),
        ("s3://pictures/in/", "s3://pictures/in/ is a folder: give its pictures a prompt"),
        ("s3://", "names no bucket"),
        ("s3:/pictures/jobs.csv", "a URI lacks slashes behind s3:; write 's3://pictures/jobs.csv'"),
        (
            "https://host/jobs.csv",
            "a CSV is read from a path, file:// or s3://, not from https://; pipe it instead: curl",
        ),
        ("ftp://host/jobs.csv", "has the scheme 'ftp'"),
        ("s3://key:secret@pictures/jobs.csv", "has a user before the bucket"),
    ],
)
def test_what_no_csv_can_be_read_from(run: Run, store: OddStore, uri: str, sentence: str) -> None:
    ran = run("submit", uri)
    assert ran.code == 2
    assert sentence in ran.stderr
    assert store.requests == []


def test_a_file_uri_is_the_file(run: Run, ledger: Ledger, tmp_path: Path) -> None:
    path = write(tmp_path, GOOD, name="my jobs.csv")
    assert run("submit", path.as_uri()).record["enqueued"] == 3
    again = run("submit", "my jobs.csv").record
    assert (again["batch"], again["enqueued"], again["already"]["queued"]) == ("my-jobs", 0, 3)
    assert (tmp_path / "a.png").as_uri() in images(ledger, "my-jobs")
    missing = run("submit", "file:///nowhere/jobs.csv")
    assert (missing.code, missing.stderr) == (5, "/nowhere/jobs.csv: No such file or directory\n")


@pytest.mark.parametrize("name", ["jobs.csv", "-", "/srv/a:b.csv", "a:/b.csv", "./s3:/x.csv"])
def test_all_else_is_a_path(name: str) -> None:
    assert local_or_bucket(name) == (Path(name), None)


def test_a_uri_that_is_given_as_a_path_has_lost_a_slash() -> None:
    with pytest.raises(CommandFailed, match="lacks slashes"):
        local_or_bucket(str(Path("s3://pictures/jobs.csv")))


def test_a_csv_in_a_bucket_is_submitted_by_the_program_itself(redis_url: str, ledger: Ledger, store: OddStore) -> None:
    environment = os.environ | {"RENDER_REDIS_URL": redis_url, "RENDER_OUTPUT_URI": "s3://pictures/out"}
    command = [sys.executable, "-m", "producer", "submit", CSV, "--batch", "nightly"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (ended.returncode, json.loads(ended.stdout)["manifest_files"]) == (0, 1), ended.stderr
    assert any(path.startswith("/pictures/out/nightly/manifest/") for path in store.objects)
