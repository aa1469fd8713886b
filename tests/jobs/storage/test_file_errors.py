"""What file systems answer, and whose fault it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from jobs.errors import OutputUnavailable, RenderError, SourceForbidden
from jobs.storage import file_errors
from jobs.storage.file import FileStore
from jobs.storage.file_errors import output_error, source_error
from jobs.storage.mounts import is_shared, network_device
from jobs.storage.store import store_for

Told = tuple[str, str, bool]

NOT_HERE: Told = ("source_not_found", "worker", False)
NOWHERE: Told = ("source_not_found", "job", False)
NOT_MINE: Told = ("source_forbidden", "worker", False)
FORBIDDEN: Told = ("source_forbidden", "job", False)
NO_KEY: Told = ("source_forbidden", "worker", True)
AWAY: Told = ("source_unavailable", "store", False)
OUT_FORBIDDEN: Told = ("output_forbidden", "worker", False)
OUT_UNFIT: Told = ("output_forbidden", "worker", True)
OUT_FULL: Told = ("output_full", "worker", True)
OUT_TOO_LARGE: Told = ("output_full", "worker", False)
OUT_AWAY: Told = ("output_unavailable", "store", False)


def told(error: RenderError) -> Told:
    return error.kind, error.fault, error.unfit


@pytest.mark.parametrize(
    ("names", "reading", "writing"),
    [
        ("EACCES EPERM", NOT_MINE, OUT_FORBIDDEN),
        ("ENOENT", NOT_HERE, OUT_AWAY),  # a folder that was removed during a write: the next try creates it
        ("ENOTDIR", NOT_HERE, OUT_FORBIDDEN),
        ("ENAMETOOLONG", NOWHERE, OUT_FORBIDDEN),
        ("EISDIR ELOOP", FORBIDDEN, OUT_FORBIDDEN),
        ("ENXIO ENODEV", FORBIDDEN, OUT_AWAY),
        ("EEXIST ENOSYS EOPNOTSUPP", AWAY, OUT_FORBIDDEN),
        ("EINVAL EILSEQ", FORBIDDEN, OUT_FORBIDDEN),
        ("ENOKEY EKEYEXPIRED EKEYREVOKED EKEYREJECTED", NO_KEY, OUT_UNFIT),
        ("ENOSPC EDQUOT", AWAY, OUT_FULL),
        ("EFBIG", AWAY, OUT_TOO_LARGE),
        ("EROFS", AWAY, OUT_UNFIT),
        ("EIO ESTALE ETIMEDOUT ENOTCONN EHOSTDOWN EHOSTUNREACH ENETDOWN ENETUNREACH ECONNREFUSED", AWAY, OUT_AWAY),
        ("ECONNRESET EREMOTEIO ENOLINK ECOMM EPROTO ESHUTDOWN EBADMSG EUCLEAN ENOLCK EBUSY EAGAIN", AWAY, OUT_AWAY),
        ("ETXTBSY EMFILE ENFILE ENOMEM EINTR EDEADLK", AWAY, OUT_AWAY),
    ],
)  # fmt: skip
def test_what_file_systems_answer(names: str, reading: Told, writing: Told) -> None:
    path = Path("/disk/a.png")
    for name in names.split():
        error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)), str(path))
        assert (told(source_error(path, error)), told(output_error(path, error))) == (reading, writing), name
        for sentence in (str(source_error(path, error)), str(output_error(path, error))):
            assert sentence.startswith("/disk/a.png ")
            assert "Errno" not in sentence


def test_a_name_that_no_file_can_have_is_the_jobs_fault() -> None:
    for call in (
        lambda: store_for("file://").write("file:///a%00b", b"", ""),
        lambda: FileStore().read("file:///a%00b"),
    ):
        with pytest.raises(RenderError, match="not a usable path") as caught:
            call()
        assert caught.value.fault == "job"


def test_a_full_file_server_is_the_stores_fault_which_all_workers_share(monkeypatch: pytest.MonkeyPatch) -> None:
    full = OSError(errno.EDQUOT, "Disk quota exceeded")
    monkeypatch.setattr(file_errors, "is_shared", lambda path: True)
    assert told(output_error(Path("/nfs/a"), full)) == ("output_full", "store", False)
    assert "no space left (the quota is used up) on the file server" in str(output_error(Path("/nfs/a"), full))


MOUNTS = """\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
23 22 0:21 / /tmp rw - tmpfs tmpfs rw,size=1024k
40 22 0:45 / /mnt/renders rw,relatime shared:3 master:1 - nfs4 files:/renders rw,vers=4.2
41 22 0:46 / /mnt/a\\040b rw - fuse.sshfs person@host:/ rw
42 22 0:47 / /mnt/own rw - fuse.gocryptfs /own rw
43 22 0:48 / /mnt/windows rw - cifs //server/share rw
broken
"""


@pytest.mark.parametrize(
    ("device", "expected"),
    [((8, 1), False), ((0, 21), False), ((0, 45), True), ((0, 46), True), ((0, 47), False), ((0, 48), True)],
)
def test_a_mount_tells_whether_it_is_a_file_servers(device: tuple[int, int], expected: bool) -> None:
    assert network_device(MOUNTS, device=os.makedev(*device)) is expected
    assert not network_device(MOUNTS, device=os.makedev(0, 99))


def test_the_nearest_folder_that_exists_decides(tmp_path: Path) -> None:
    assert is_shared(tmp_path / "not" / "yet") is False
    assert is_shared(Path("a\0b")) is False


@pytest.mark.skipif(os.geteuid() == 0, reason="root may look everywhere")
def test_a_folder_that_may_not_be_searched_makes_a_look_say_not_known(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    assert store_for("file://").exists((tmp_path / "closed" / "a").as_uri()) is None


def test_a_look_below_a_file_or_at_a_name_that_is_too_long_finds_nothing(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"")
    assert store_for("file://").exists((tmp_path / "a" / "b").as_uri()) is False
    assert store_for("file://").exists((tmp_path / ("x" * 300)).as_uri()) is False


def test_a_file_that_goes_away_while_it_is_opened_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stale(descriptor: int) -> os.stat_result:
        raise OSError(errno.ESTALE, "Stale file handle")

    (tmp_path / "a").write_bytes(b"data")
    before = len(list(Path("/proc/self/fd").iterdir()))
    with monkeypatch.context() as patched:
        patched.setattr(os, "fstat", stale)
        with pytest.raises(RenderError, match="Stale file handle") as caught:
            FileStore().read((tmp_path / "a").as_uri())
    assert told(caught.value) == AWAY
    for _ in range(3):
        with pytest.raises(SourceForbidden, match="not a regular file"):
            FileStore().read(tmp_path.as_uri())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_a_disk_that_errs_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OutputUnavailable, match="Input/output error") as caught:
        FileStore().write((tmp_path / "a.png").as_uri(), b"new", "image/png")
    assert caught.value.fault == "store"
