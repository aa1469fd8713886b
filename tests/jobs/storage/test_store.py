"""Storage: whole or not at all, and errors that say what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.errors import (
    InvalidJob,
    OutputForbidden,
    OutputFull,
    OutputUnavailable,
    SourceForbidden,
    SourceNotFound,
    SourceTooLarge,
)
from jobs.storage.access_policy import AccessPolicy
from jobs.storage.file import FileStore, whole_file, write_whole
from jobs.storage.http import FetchLimits
from jobs.storage.memory import MemoryStore
from jobs.storage.store import read_bytes, store_for
from tools import ROOT

LIMITS = FetchLimits(max_bytes=10)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    uri = (tmp_path / "deep" / "er" / "a b.png").as_uri()
    writer = store_for(uri)
    assert not writer.exists(uri)
    writer.write(uri, b"data", "image/png")
    assert writer.exists(uri)
    assert writer.read(uri) == b"data"


def test_a_write_that_breaks_leaves_the_old_file_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = (tmp_path / "a.png").as_uri()
    FileStore().write(uri, b"old", "image/png")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputFull, match="no space left"):
        FileStore().write(uri, b"new", "image/png")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a.png"]
    assert FileStore().read(uri) == b"old"


def test_a_jobs_files_leave_no_interned_name_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # pathlib interns each part of a path, and Python 3.12 keeps interned strings for as long as the process lives.
    policy = AccessPolicy(folders=(str(tmp_path),), output=tmp_path.as_uri())
    store, uri = FileStore(FetchLimits(max_bytes=10, policy=policy)), (tmp_path / "batch" / "a.png").as_uri()
    interned: list[str] = []

    def intern(text: str) -> str:
        interned.append(text)
        return text

    with monkeypatch.context() as patch:
        patch.setattr(sys, "intern", intern)
        policy.check_output(uri.rpartition("/")[0])
        store.write(uri, b"data", "image/png")
        there, data = store.exists(uri), store.read(uri)
        store.delete(uri)
    assert (there, data) == (True, b"data")
    assert interned == []


def test_a_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_bytes(b"")
    with pytest.raises(OutputForbidden):
        FileStore().write((tmp_path / "out" / "a.png").as_uri(), b"", "image/png")


def test_a_scheme_that_cannot_be_written_is_refused() -> None:
    with pytest.raises(OutputForbidden, match="s3://bucket/prefix"):
        store_for("https://example.org/out/a.png")


def test_a_missing_file_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match=r"cat\.png does not exist"):
        read_bytes((tmp_path / "cat.png").as_uri(), LIMITS)


def test_a_folder_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(SourceForbidden, match="not a regular file"):
        read_bytes(tmp_path.as_uri(), LIMITS)


def test_a_file_over_the_cap_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 11)
    with pytest.raises(SourceTooLarge, match="RENDER_FETCH_MAX_BYTES"):
        read_bytes((tmp_path / "a").as_uri(), LIMITS)


def test_an_unknown_scheme_is_refused() -> None:
    with pytest.raises(InvalidJob):
        read_bytes("ftp://host/a", LIMITS)


def test_boto3_is_imported_only_where_a_bucket_is_named(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from jobs.ledger.rebuild import rebuild
from jobs.storage.http import FetchLimits
from jobs.storage.store import read_bytes, store_for
from jobs.submission import SubmissionWriter
uri = Path(sys.argv[1]).as_uri()
store_for(uri).write(uri, b"data", "image/png")
read_bytes(uri, FetchLimits())
assert "boto3" not in sys.modules
store_for("s3://bucket")
assert "boto3" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code, tmp_path / "a"], check=True, cwd=ROOT)


def test_the_memory_store_remembers_the_order() -> None:
    writer = MemoryStore()
    writer.write("b", b"1", "image/png")
    writer.write("a", b"2", "image/png")
    assert writer.order == ["b", "a"]
    with pytest.raises(SourceNotFound):
        writer.read("c")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_whole(path, b"first")
    write_whole(path, b"second")

    def break_off() -> None:
        with whole_file(path) as file:
            file.write(b"half")
            file.flush()
            assert path.read_bytes() == b"second"
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert path.read_bytes() == b"second"
    assert [found.name for found in tmp_path.iterdir()] == ["page.html"]


def test_what_cannot_be_written_whole_is_an_ordinary_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_whole(tmp_path / "nowhere" / "a", b"")
    with pytest.raises(IsADirectoryError):
        write_whole(tmp_path, b"")
    assert list(tmp_path.iterdir()) == []
    assert not [path for path in tmp_path.parent.iterdir() if path.name.endswith(".part")]


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole_file(path) as first, whole_file(path) as second:
        first.write(b"first")
        second.write(b"second")
    assert path.read_bytes() == b"first"  # the outer block ends last


@pytest.mark.parametrize("name", ["x" * 255, "\u732b" * 85, "\U0001f408" * 63])
def test_a_file_may_have_the_longest_name_that_the_file_system_takes(tmp_path: Path, name: str) -> None:
    write_whole(tmp_path / name, b"whole")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_folder_that_is_not_there_is_reported_by_the_files_own_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        write_whole(tmp_path / "gone" / "a.csv", b"")
    assert caught.value.filename == str(tmp_path / "gone" / "a.csv")


@pytest.mark.parametrize("reason", [errno.EBUSY, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTEMPTY])
def test_an_empty_folder_that_may_not_be_removed_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: int
) -> None:
    """It is a mount, or nothing may be removed from the folder above it: every file in it could be deleted."""
    parts = tmp_path / "b" / ".part"
    parts.mkdir(parents=True)
    part = parts / f"1700000000-{'0' * 16}.part"
    part.touch()

    def refuse(path: str) -> None:
        raise OSError(reason, os.strerror(reason), path)

    monkeypatch.setattr(os, "rmdir", refuse)
    FileStore().delete_empty((tmp_path / "b").as_uri())
    assert (parts.is_dir(), part.exists()) == (True, False)


@pytest.mark.parametrize("name", ["x" * 300, "/".join(["x" * 200] * 30)], ids=["long name", "long path"])
def test_a_folder_that_cannot_exist_needs_no_removal(tmp_path: Path, name: str) -> None:
    """All jobs of such a batch failed to write, and `producer delete` must still end."""
    FileStore().delete_empty((tmp_path / name).as_uri())


def test_a_folder_on_a_broken_disk_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(path: str) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)

    monkeypatch.setattr(os, "rmdir", break_down)
    with pytest.raises((OutputForbidden, OutputUnavailable)):
        FileStore().delete_empty(tmp_path.as_uri())
