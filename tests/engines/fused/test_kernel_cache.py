"""Kernels as files: which sizes they are compiled for, and the way into an archive and out of it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from engines.fused.kernel_cache import CACHE, archive, install_kernels, sizes
from engines.spec import Profile


def test_a_range_of_shapes_is_run_at_every_size_in_it() -> None:
    found = sizes([Profile.parse("64x64:128x192", max_batch=1)])
    assert found == [(1, height, width) for height in (64, 128) for width in (64, 128, 192)]


def test_batches_are_run_in_powers_of_two_and_the_largest() -> None:
    assert [batch for batch, _, _ in sizes([Profile.parse("512x512", max_batch=6)])] == [1, 2, 4, 6]


def test_archives_are_unpacked_together_where_triton_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "elsewhere")
    for name in ("one", "two"):
        launcher = tmp_path / name / f"key-{name}" / "launcher.so"
        launcher.parent.mkdir(parents=True)
        launcher.write_bytes(name.encode())
        launcher.chmod(0o755)
        archive(tmp_path / name, tmp_path / f"{name}.zip")
    folder = install_kernels([tmp_path / "one.zip", tmp_path / "two.zip"])
    assert os.environ[CACHE] == str(folder)
    assert {path.read_text() for path in folder.rglob("launcher.so")} == {"one", "two"}


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "a.cubin").write_bytes(b"code")
    archive(tmp_path / "kernels", tmp_path / "one.zip")
    os.utime(tmp_path / "kernels" / "a.cubin", (0, 10**9))
    archive(tmp_path / "kernels", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert not stat.S_IMODE((tmp_path / "one.zip").stat().st_mode) & 0o111
