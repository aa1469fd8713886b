"""An engine set on a real S3 server: pushed, listed, pulled, loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import boto3
import pytest

from engines.engine_set import load_engine_set
from engines.manifest import MANIFEST, load_manifest
from tests.engines.stored import start
from tests.models import tiny_engine_set


def told(*arguments: object) -> dict[str, Any]:
    """What `engines` prints for programs."""
    process = start(*arguments)
    out, err = process.communicate(timeout=200)
    assert process.returncode == 0, err
    return dict(json.loads(out))


def test_a_set_goes_to_a_bucket_and_comes_back_whole(bucket: str, tmp_path: Path) -> None:
    folder, root = tiny_engine_set(), f"s3://{bucket}/sets"
    digest = load_manifest(folder).digest
    assert told("push", folder, root)["engine_set"] == digest
    assert told("push", folder, root)["files"] == 0
    (listed,) = told("list", root)["sets"]
    assert (listed["engine_set"], listed["fits"]) == (digest, True)
    pulled = told("pull", root, "--into", tmp_path / "sets")
    assert pulled["downloaded_bytes"] == listed["bytes"]
    with load_engine_set(tmp_path / "sets" / "current", device="cpu", threads=1) as loaded:
        assert loaded.digest == digest


def test_a_wrong_key_and_a_missing_bucket_are_named(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start("list", "s3://nowhere-at-all/sets")
    assert "the bucket 'nowhere-at-all' does not exist" in process.communicate(timeout=200)[1]
    assert process.returncode == 9
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-and-secret")
    process = start("pull", f"s3://{bucket}/sets", "--into", tmp_path)
    assert "SignatureDoesNotMatch" in process.communicate(timeout=200)[1]
    assert process.returncode == 9


def test_the_manifest_is_the_last_object_of_a_set(bucket: str) -> None:
    told("push", tiny_engine_set(), f"s3://{bucket}")
    objects = boto3.session.Session().client("s3").list_objects_v2(Bucket=bucket)["Contents"]
    last = max(objects, key=lambda each: each["LastModified"])
    times = {each["Key"].rpartition("/")[2]: each["LastModified"] for each in objects}
    assert times[MANIFEST] == last["LastModified"]
