"""What every store does, tried on files, on a real S3 server and in memory."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import boto3
import pytest

from jobs.errors import OutputForbidden, SourceForbidden, SourceNotFound, SourceTooLarge
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.limits import FetchLimits
from jobs.storage.memory import MemoryStore
from jobs.storage.s3 import SINGLE_PUT_BYTES
from jobs.storage.store import Store, source_for, store_for

LARGE_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Place:
    """A store and the URI of an empty folder in it."""

    store: Store
    root: str


@pytest.fixture(params=["file", "memory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    roots: dict[str, Callable[[], str]] = {
        "file": lambda: (tmp_path / "root").as_uri(),
        "memory": lambda: "s3://bucket/root",
        "s3": lambda: f"s3://{request.getfixturevalue('bucket')}/root",
    }
    root = roots[request.param]()
    return Place(MemoryStore() if request.param == "memory" else store_for(root), root)


def local(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "local.bin"
    path.write_bytes(data)
    return path


def test_a_file_goes_in_and_comes_out_with_its_digest(place: Place, tmp_path: Path) -> None:
    data = os.urandom(100_000)
    digest = hashlib.sha256(data).hexdigest()
    uri = f"{place.root}/deep/er/a b?#ü.bin"
    assert place.store.put_file(uri, local(tmp_path, data), "application/x-test") == digest
    assert place.store.exists(uri)
    assert place.store.read(uri) == data
    target = tmp_path / "new" / "folder" / "copy.bin"
    assert place.store.get_file(uri, target) == digest
    assert target.read_bytes() == data
    assert [path.name for path in target.parent.iterdir()] == ["copy.bin"]


def test_putting_and_getting_replace_what_was_there(place: Place, tmp_path: Path) -> None:
    uri, target = f"{place.root}/a", tmp_path / "a"
    target.write_bytes(b"an old and longer file")
    for data in (b"first", b"2nd", b""):
        place.store.put_file(uri, local(tmp_path, data), "application/x-test")
        assert place.store.read(uri) == data
        place.store.get_file(uri, target)
        assert target.read_bytes() == data


def test_what_is_not_there_is_not_got_and_leaves_the_target_alone(place: Place, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"old")
    with pytest.raises(SourceNotFound):
        place.store.get_file(f"{place.root}/missing", target)
    assert target.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == {"target"}


def test_a_local_file_that_is_not_there_is_told_and_nothing_is_stored(place: Place, tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound):
        place.store.put_file(f"{place.root}/a", tmp_path / "missing", "application/x-test")
    with pytest.raises(SourceForbidden, match="not a regular file"):
        place.store.put_file(f"{place.root}/a", Path("/dev/zero"), "application/x-test")
    assert list(place.store.names_below(place.root)) == []


def test_a_local_folder_that_is_a_file_is_told(place: Place, tmp_path: Path) -> None:
    place.store.write(f"{place.root}/a", b"data", "application/x-test")
    with pytest.raises(OutputForbidden):
        place.store.get_file(f"{place.root}/a", local(tmp_path, b"") / "below")


def test_deleting_is_final_and_may_be_repeated(place: Place) -> None:
    for name in ("a", "b/c"):
        place.store.write(f"{place.root}/{name}", b"data", "application/x-test")
    for _ in range(2):
        place.store.delete(f"{place.root}/a")
        assert not place.store.exists(f"{place.root}/a")
    with pytest.raises(SourceNotFound):
        place.store.read(f"{place.root}/a")
    place.store.delete(f"{place.root}/never/was")
    place.store.delete(f"{place.root}/b/c/d")  # below a file
    assert list(place.store.names_below(place.root)) == ["b/c"]


def test_names_are_those_of_one_folder_and_names_below_of_all(place: Place) -> None:
    for name in ("a.png", "b/c.png", "b/d/e.png", "b/d/ü ?.png", "f/g.png"):
        place.store.write(f"{place.root}/{name}", b"", "image/png")
    place.store.write(f"{place.root}-beside/h.png", b"", "image/png")
    for folder in (place.root, place.root + "/"):
        assert {name for name in place.store.names(folder) if name != ".part/"} == {"a.png", "b/", "f/"}
        assert sorted(place.store.names_below(folder)) == ["a.png", "b/c.png", "b/d/e.png", "b/d/ü ?.png", "f/g.png"]
    assert sorted(place.store.names_below(f"{place.root}/b/d")) == ["e.png", "ü ?.png"]
    assert list(place.store.names(f"{place.root}/nowhere")) == []
    assert list(place.store.names_below(f"{place.root}/nowhere")) == []


def test_sizes_are_those_of_the_files_below(place: Place) -> None:
    for name, data in (("a.png", b"1"), ("b/c.png", b"22"), ("b/d/ü ?.png", b"")):
        place.store.write(f"{place.root}/{name}", data, "image/png")
    for folder in (place.root, place.root + "/"):
        assert sorted(place.store.sizes_below(folder)) == [("a.png", 1), ("b/c.png", 2), ("b/d/ü ?.png", 0)]
    assert list(place.store.sizes_below(f"{place.root}/nowhere")) == []


def test_progress_is_told_in_bytes_and_may_end_a_transfer(place: Place, tmp_path: Path) -> None:
    uri, data, told = f"{place.root}/a", os.urandom(3 * SINGLE_PUT_BYTES), list[int]()
    place.store.put_file(uri, local(tmp_path, data), "application/x-test", progress=told.append)
    place.store.get_file(uri, tmp_path / "copy", progress=told.append)
    assert told.count(len(data)) >= 2
    assert sum(after < before for before, after in pairwise(told)) <= 1  # the download begins anew

    def stop(done: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        place.store.get_file(uri, tmp_path / "stopped", progress=stop)
    if not isinstance(place.store, MemoryStore):
        assert not (tmp_path / "stopped").exists()
        with pytest.raises(KeyboardInterrupt):
            place.store.put_file(f"{place.root}/stopped", tmp_path / "local.bin", "application/x-test", progress=stop)
        assert not place.store.exists(f"{place.root}/stopped")


def test_names_arrive_one_at_a_time(place: Place) -> None:
    place.store.write(f"{place.root}/a", b"", "image/png")
    assert isinstance(place.store.names_below(place.root), Iterator)
    assert next(place.store.names_below(place.root)) == "a"


def test_large_files_pass_in_flat_memory(place: Place, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    with large.open("wb") as file:
        file.truncate(LARGE_BYTES)
    tracemalloc.start()
    try:
        digest = place.store.put_file(f"{place.root}/large", large, "application/x-test")
        assert place.store.get_file(f"{place.root}/large", tmp_path / "copy.bin") == digest
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (tmp_path / "copy.bin").stat().st_size == LARGE_BYTES
    assert peak < 3 * SINGLE_PUT_BYTES < LARGE_BYTES or isinstance(place.store, MemoryStore)


def test_an_uploaded_file_has_its_content_type(bucket: str, tmp_path: Path) -> None:
    for size in (10, SINGLE_PUT_BYTES + 1):
        store_for("s3://x").put_file(f"s3://{bucket}/a", local(tmp_path, b"x" * size), "application/x-test")
        head = boto3.session.Session().client("s3").head_object(Bucket=bucket, Key="a")
        assert (head["ContentType"], head["ContentLength"]) == ("application/x-test", size)


def test_a_source_obeys_its_limits_and_its_policy(bucket: str, tmp_path: Path) -> None:
    for uri, policy in (
        (f"s3://{bucket}/a", AccessPolicy(buckets=("other",))),
        (local(tmp_path, b"x" * 11).as_uri(), AccessPolicy(folders=("/nowhere",))),
    ):
        store_for(uri).write(uri, b"x" * 11, "application/x-test")
        assert source_for(uri, FetchLimits()).read(uri) == b"x" * 11
        with pytest.raises(SourceTooLarge):
            source_for(uri, FetchLimits(max_bytes=10)).read(uri)
        with pytest.raises(SourceForbidden, match="RENDER_ALLOW"):
            source_for(uri, FetchLimits(policy=policy)).read(uri)


def test_a_link_that_cannot_be_followed_is_told_with_an_error_of_ours(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    store = store_for("file://")
    for names in (store.names, store.names_below):
        with pytest.raises(OutputForbidden, match="symbolic links"):
            list(names(tmp_path.as_uri()))


def test_links_to_folders_are_not_followed_and_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    (tmp_path / "root" / "loop").mkdir(parents=True)
    (tmp_path / "root" / "loop" / "back").symlink_to(tmp_path / "root")
    store_for("file://").write((tmp_path / "root" / "loop" / "a").as_uri(), b"", "image/png")
    (tmp_path / "root" / "loop" / ".part" / "0000000001-0123456789abcdef.part").write_bytes(b"half")
    assert list(store_for("file://").names_below((tmp_path / "root").as_uri())) == ["loop/a"]
