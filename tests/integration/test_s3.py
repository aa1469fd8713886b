"""Storage on a real S3 server: objects are whole or not there, and errors say what to do."""

from __future__ import annotations

from pathlib import Path

import boto3
import pytest

from jobs.errors import OutputForbidden, OutputUnavailable, SourceForbidden, SourceNotFound, SourceTooLarge
from jobs.storage import s3
from jobs.storage.http import FetchLimits
from jobs.storage.store import read_bytes, store_for


def test_what_was_written_is_there_and_read_back(bucket: str) -> None:
    uri = f"s3://{bucket}/spring/a b?#ü.png"
    writer = store_for(uri)
    assert not writer.exists(uri)
    writer.write(uri, b"data", "image/png")
    assert writer.exists(uri)
    assert read_bytes(uri, FetchLimits()) == b"data"


def test_a_result_has_its_content_type(bucket: str) -> None:
    store_for("s3://x").write(f"s3://{bucket}/a.json", b"{}", "application/json")
    head = boto3.session.Session().client("s3").head_object(Bucket=bucket, Key="a.json")
    assert head["ContentType"] == "application/json"


def test_a_missing_object_is_not_found(bucket: str) -> None:
    with pytest.raises(SourceNotFound, match=r"missing\.png does not exist"):
        read_bytes(f"s3://{bucket}/missing.png", FetchLimits())


def test_an_object_over_the_cap_is_refused(bucket: str) -> None:
    store_for("s3://x").write(f"s3://{bucket}/big", b"x" * 11, "image/png")
    with pytest.raises(SourceTooLarge, match="RENDER_FETCH_MAX_BYTES"):
        read_bytes(f"s3://{bucket}/big", FetchLimits(max_bytes=10))


@pytest.mark.usefixtures("bucket")
def test_a_missing_bucket_is_named() -> None:
    with pytest.raises(OutputForbidden, match="bucket 'nowhere-at-all' does not exist"):
        store_for("s3://x").write("s3://nowhere-at-all/a.png", b"", "image/png")


def test_a_wrong_key_is_refused_without_showing_it(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    s3.forget_client()
    with pytest.raises(OutputForbidden, match="SignatureDoesNotMatch") as caught:
        store_for("s3://x").write(f"s3://{bucket}/a.png", b"", "image/png")
    assert "secret" not in str(caught.value)
    with pytest.raises(SourceForbidden):
        read_bytes(f"s3://{bucket}/a.png", FetchLimits())


def test_a_server_that_is_away_is_worth_another_try(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")
    s3.forget_client()
    with pytest.raises(OutputUnavailable):
        store_for("s3://x").write(f"s3://{bucket}/a.png", b"", "image/png")


@pytest.mark.usefixtures("bucket")
def test_missing_credentials_name_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3.forget_client()
    with pytest.raises(OutputForbidden, match="AWS_ACCESS_KEY_ID"):
        store_for("s3://x").write("s3://any/a.png", b"", "image/png")
