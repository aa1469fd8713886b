"""Kernels as files: which sizes they are compiled for, and the way into an archive and out of it."""

from __future__ import annotations

import json
import os
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


def test_a_group_says_where_its_parts_are_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "elsewhere")
    group = tmp_path / "built" / "key" / "__grp__kernel.json"
    group.parent.mkdir(parents=True)
    group.write_text(json.dumps({"child_paths": {"kernel.cubin": str(group.parent / "kernel.cubin")}}))
    archive(tmp_path / "built", tmp_path / "kernels.zip")
    folder = install_kernels([tmp_path / "kernels.zip"])
    found = json.loads((folder / "key" / "__grp__kernel.json").read_text())
    assert found == {"child_paths": {"kernel.cubin": str(folder / "key" / "kernel.cubin")}}


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "a.cubin").write_bytes(b"code")
    archive(tmp_path / "kernels", tmp_path / "one.zip")
    os.utime(tmp_path / "kernels" / "a.cubin", (0, 10**9))
    archive(tmp_path / "kernels", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
