"""Storage that breaks during a write: whatever happens, a result is visible whole or not at all."""

from __future__ import annotations

import hashlib
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import OutputForbidden, OutputFull, OutputUnavailable, SourceForbidden, SourceUnavailable
from jobs.job import RenderJob, RenderResult
from jobs.storage import file as files
from jobs.storage import s3, s3_client
from jobs.storage.http import FetchLimits
from jobs.storage.retry import with_backoff
from jobs.storage.store import read_bytes, store_for
from tests.eventually import eventually
from tests.integration.conftest import Site
from tests.jobs.rows import enqueue, make_job
from tests.small_disk import small_file_system
from tests.tcp_proxy import TcpProxy
from tools import ROOT

SMALL = os.urandom(1_000_000)
LARGE = os.urandom(s3.SINGLE_PUT_BYTES + 1)  # in three parts


def write(uri: str, data: bytes) -> None:
    store_for(uri).write(uri, data, "image/png")


def keys(server: Any, bucket: str) -> list[str]:
    return [item["Key"] for item in server.list_objects_v2(Bucket=bucket).get("Contents", [])]


# -- S3 -----------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("proxy")
@pytest.mark.parametrize(("data", "parts"), [(SMALL, 1), (LARGE, 3)], ids=["single put", "multipart"])
def test_files_arrive_whole_with_one_request_or_in_parts(server: Any, bucket: str, data: bytes, parts: int) -> None:
    write(f"s3://{bucket}/a.png", data)
    assert read_bytes(f"s3://{bucket}/a.png", FetchLimits()) == data
    head = server.head_object(Bucket=bucket, Key="a.png")
    assert head["ContentType"] == "image/png"
    assert head["ETag"].strip('"').partition("-")[2] == ("" if parts == 1 else str(parts))


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["single put", "multipart"])
def test_after_a_cut_in_mid_upload_nothing_is_visible_and_the_old_file_is_whole(
    server: Any, bucket: str, proxy: TcpProxy, data: bytes
) -> None:
    write(f"s3://{bucket}/old.png", b"old")
    proxy.faults.cut_after_bytes = 500_000
    for name in ("new.png", "old.png"):
        with pytest.raises(OutputUnavailable):
            write(f"s3://{bucket}/{name}", data)
    assert proxy.cut >= 2
    assert keys(server, bucket) == ["old.png"]
    assert server.get_object(Bucket=bucket, Key="old.png")["Body"].read() == b"old"
    assert "Uploads" not in server.list_multipart_uploads(Bucket=bucket)  # the upload was aborted


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["single put", "multipart"])
def test_cuts_are_got_over_with_backoff(bucket: str, proxy: TcpProxy, data: bytes) -> None:
    proxy.faults.cut_after_bytes, proxy.faults.cut_connections = 500_000, 3
    pauses: list[float] = []
    uri = f"s3://{bucket}/a.png"
    with_backoff(lambda: write(uri, data), attempts=4, base_seconds=0.5, sleep=pauses.append)
    assert proxy.cut == 3
    assert len(pauses) == 1  # boto3 tries once more within each of our attempts
    assert read_bytes(uri, FetchLimits()) == data


def test_a_server_that_falls_silent_is_worth_another_try(
    bucket: str, proxy: TcpProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_client, "SILENT_SECONDS", 0.3)
    s3.forget_client()
    proxy.faults.stall_replies = True
    with pytest.raises(OutputUnavailable, match="ReadTimeout"):
        write(f"s3://{bucket}/a.png", SMALL)
    with pytest.raises(SourceUnavailable, match="ReadTimeout"):
        read_bytes(f"s3://{bucket}/a.png", FetchLimits())


def test_a_slow_server_is_given_up_at_the_deadline(bucket: str, proxy: TcpProxy) -> None:
    write(f"s3://{bucket}/a.png", SMALL)
    proxy.faults.reply_bytes_per_second = 200_000
    with pytest.raises(SourceUnavailable, match="RENDER_FETCH_TIMEOUT_SECONDS"):
        read_bytes(f"s3://{bucket}/a.png", FetchLimits(timeout_seconds=0.5))


def test_a_download_that_breaks_off_is_worth_another_try(bucket: str, proxy: TcpProxy) -> None:
    write(f"s3://{bucket}/a.png", SMALL)
    proxy.faults.cut_after_reply_bytes, proxy.faults.cut_connections = 300_000, 1
    with pytest.raises(SourceUnavailable, match=r"a\.png could not be read"):
        read_bytes(f"s3://{bucket}/a.png", FetchLimits())
    assert read_bytes(f"s3://{bucket}/a.png", FetchLimits()) == SMALL


@pytest.mark.parametrize("data", [SMALL, LARGE], ids=["single put", "multipart"])
def test_after_a_cut_in_mid_upload_of_a_file_nothing_is_visible(
    server: Any, bucket: str, proxy: TcpProxy, data: bytes, tmp_path: Path
) -> None:
    local = tmp_path / "local.png"
    local.write_bytes(data)
    proxy.faults.cut_after_bytes = 500_000
    with pytest.raises(OutputUnavailable):
        store_for("s3://").put_file(f"s3://{bucket}/new.png", local, "image/png")
    assert keys(server, bucket) == []
    assert "Uploads" not in server.list_multipart_uploads(Bucket=bucket)


def test_a_download_to_a_file_that_breaks_off_leaves_the_old_file_and_no_rest(
    bucket: str, proxy: TcpProxy, tmp_path: Path
) -> None:
    write(f"s3://{bucket}/a.png", SMALL)
    target = tmp_path / "a.png"
    target.write_bytes(b"old")
    proxy.faults.cut_after_reply_bytes, proxy.faults.cut_connections = 300_000, 1
    with pytest.raises(SourceUnavailable, match=r"a\.png could not be read"):
        store_for("s3://").get_file(f"s3://{bucket}/a.png", target)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    assert target.read_bytes() == b"old"
    assert store_for("s3://").get_file(f"s3://{bucket}/a.png", target) == hashlib.sha256(SMALL).hexdigest()
    assert target.read_bytes() == SMALL


@pytest.mark.parametrize("request_name", ["CreateMultipartUpload", "UploadPart", "CompleteMultipartUpload"])
def test_an_interrupted_multipart_upload_is_aborted(server: Any, bucket: str, request_name: str) -> None:
    """Ctrl-C in the middle of `engines push`: boto3's transfer manager cleans up after any exception."""

    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    s3.forget_client()
    s3.client().meta.events.register(f"before-send.s3.{request_name}", interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            write(f"s3://{bucket}/a.png", LARGE)
    finally:
        s3.forget_client()
    assert keys(server, bucket) == []
    assert "Uploads" not in server.list_multipart_uploads(Bucket=bucket)


@pytest.mark.parametrize("uri", ["s3://", "s3://b", "s3:///k", "s3://[/k", "s3://UPPER CASE/k", "s3://bucket/\ud800"])
@pytest.mark.usefixtures("bucket")
def test_an_unusable_bucket_or_key_fails_at_once(uri: str) -> None:
    with pytest.raises(SourceForbidden, match="not a usable bucket or key"):
        read_bytes(uri, FetchLimits())
    with pytest.raises(OutputForbidden, match="not a usable bucket or key"):
        write(uri, b"")


def test_a_worker_cut_off_at_the_sidecar_leaves_no_result_and_finishes_when_it_can(
    site: Site, server: Any, bucket: str, proxy: TcpProxy
) -> None:
    """The sidecar marks a finished result: pictures without one are not a result."""
    jobs = [site_job(site, row, f"s3://{bucket}/out") for row in (1, 2)]
    enqueue(site.ledger, jobs)
    proxy.faults.cut_where = lambda piece: piece.startswith(b"PUT") and b".json" in piece.partition(b"\r\n")[0]
    site.start(retry_attempts=2, max_attempts=50, lease_seconds=5)
    eventually(lambda: proxy.cut >= 8, what="several tries")
    assert {key.rpartition(".")[2] for key in keys(server, bucket)} == {"png", "render-probe"}
    assert site.ledger.counts("b").finished == 0
    proxy.faults.cut_where = lambda _: False
    site.wait_until_done(2)
    for job in jobs:
        key = job.sidecar_uri.removeprefix(f"s3://{bucket}/")
        sidecar = RenderResult.model_validate_json(server.get_object(Bucket=bucket, Key=key)["Body"].read())
        assert sidecar.state == "done"
        assert set(sidecar.samples) | {job.canny_uri, job.sidecar_uri} == {
            f"s3://{bucket}/{key}" for key in keys(server, bucket) if job.id in key
        }


def test_jobs_fail_with_a_sentence_where_the_bucket_is_missing_or_the_key_is_wrong(
    site: Site, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = site_job(site, 1, "s3://nowhere-at-all/out")
    enqueue(site.ledger, [missing])
    site.start()
    eventually(lambda: site.ledger.counts("b").failed == 1)
    site.started[0].kill()
    eventually(lambda: not site.ledger.workers(), what="the killed worker's lease has ended: nobody waits for it")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-wrong-key")
    enqueue(site.ledger, [site_job(site, 2, f"s3://{bucket}/out")])
    site.start()
    eventually(lambda: site.ledger.counts("b").failed == 2)
    first, second = sorted(site.ledger.results("b"), key=lambda result: result.row)
    assert (first.error_kind, second.error_kind) == ("output_forbidden", "output_forbidden")
    assert "'nowhere-at-all' does not exist" in (first.error or "")
    assert "SignatureDoesNotMatch" in (second.error or "")
    assert "planted" not in (second.error or "") + site.started[1].output


def site_job(site: Site, row: int, output: str) -> RenderJob:
    return make_job(row, output=output, image=site.picture.as_uri(), prompt="takes 0 s")


# -- files --------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    with small_file_system(tmp_path / "disk", size="1m") as folder:
        yield folder


def test_a_full_disk_is_an_error_and_keeps_what_was_whole(small_disk: Path) -> None:
    write((small_disk / "old.png").as_uri(), b"x" * 500_000)
    for name in ("new.png", "old.png"):
        with pytest.raises(OutputFull, match="no space left"):
            write((small_disk / name).as_uri(), SMALL)
    assert [path.name for path in small_disk.rglob("*") if path.is_file()] == ["old.png"]
    assert (small_disk / "old.png").read_bytes() == b"x" * 500_000


def test_a_worker_on_a_full_disk_fails_its_jobs_and_lives(site: Site) -> None:
    """This worker may write no file over 100 kB: a write beyond that fails as on a full disk."""
    site.picture.write_bytes(os.urandom(200_000))  # the stub writes it back as the edges
    small = site.folder / "small.png"
    small.write_bytes(b"small")
    worker = site.start()
    resource.prlimit(worker.pid, resource.RLIMIT_FSIZE, (100_000, 100_000))
    enqueue(site.ledger, [site.job(1), site.job(2, image=small.as_uri())])
    eventually(lambda: site.ledger.counts("b").finished == 2)
    results = {result.row: result for result in site.ledger.results("b")}
    assert (results[1].state, results[1].error_kind) == ("failed", "output_full")
    assert results[2].state == "done"
    names = {path.name for path in (site.folder / "out" / "b").rglob("*") if path.is_file()}
    assert f"{results[1].id}.json" not in names
    assert f"{results[1].id}_canny.png" not in names
    assert not [name for name in names if name.endswith(".part")]
    assert worker.alive


WRITE_FOR_EVER = """
import sys; from pathlib import Path; from jobs.storage.file import FileStore
while True: FileStore().write(Path(sys.argv[1]).as_uri(), b"x" * 50_000_000, "image/png")
"""


def test_what_kill_9_leaves_is_hidden_and_swept_when_it_is_old(tmp_path: Path) -> None:
    target, parts = tmp_path / "a.png", tmp_path / files.PARTS
    process = subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, target], cwd=ROOT)

    def stopped_in_mid_write() -> bool:
        process.send_signal(signal.SIGSTOP)
        eventually(lambda: Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        if parts.is_dir() and any(parts.iterdir()):
            return True
        process.send_signal(signal.SIGCONT)
        return False

    try:
        eventually(stopped_in_mid_write)
    finally:
        process.kill()
        process.wait()
    if target.exists():
        assert target.stat().st_size == 50_000_000
    left = list(parts.iterdir())
    assert left
    write((tmp_path / "b.png").as_uri(), b"new")
    assert list(parts.iterdir()) == left  # new ones are kept: another worker may be writing them
    age(left)
    (parts / "0000000001-notes.part").write_text("not ours")
    write((tmp_path / "b.png").as_uri(), b"newer")
    assert [path.name for path in parts.iterdir()] == ["0000000001-notes.part"]


def age(paths: list[Path]) -> None:
    """Date them as if they had been started before the limit."""
    for path in paths:
        begun, _, rest = path.name.partition("-")
        path.rename(path.with_name(f"{int(begun) - int(files.ABANDONED_SECONDS) - 1:010d}-{rest}"))


def test_a_worker_killed_in_mid_write_leaves_no_half_result_and_its_successor_sweeps(site: Site) -> None:
    site.picture.write_bytes(os.urandom(30_000_000))  # large, so that the kill comes during a write
    jobs = [site.job(row) for row in range(1, 5)]
    enqueue(site.ledger, jobs)
    folder = site.folder / "out" / "b"
    parts = folder / files.PARTS
    worker = site.start(retry_base_seconds=0.01)
    eventually(lambda: parts.is_dir() and any(parts.iterdir()))
    worker.kill()
    for path in folder.glob("*_canny.png"):
        assert path.stat().st_size == 30_000_009  # b"canny of "
    age(list(parts.iterdir()))
    site.start()
    site.reconcile_until_done(4)
    assert list(parts.iterdir()) == []
    site.assert_all_done_once(jobs, after_a_fault=True)
