"""Kernels as files: which sizes they are compiled for, and the way into an archive and out of it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from functools import cache
from itertools import product
from pathlib import Path

import pytest
import torch

from engines.backends.triton import backend
from engines.backends.triton.backend import sources_digest
from engines.backends.triton.kernel_cache import CACHE, archive_kernels, empty_cache, install_kernels
from engines.backends.triton.kernel_job import KernelJob, constants, sizes
from engines.backends.triton.tiles import Device, box_of, tile_for
from engines.build.recipe import recipe_for
from engines.errors import BackendUnavailable, BuildFailed
from engines.model.locate import find_weights
from engines.spec import Geometry, Profile, component_specs
from tests.models import tiny_model


def test_a_range_of_shapes_is_run_at_one_size_for_each_kind_of_kernel() -> None:
    found = sizes([Profile.parse("64x64:128x192", max_batch=1)])
    assert found == [(1, 64, 64), (1, 64, 192), (1, 128, 64), (1, 128, 192)]
    assert all(constants(height * width) <= set().union(*(constants(h * w) for _, h, w in found))
               for height in (64, 128) for width in (64, 128, 192))  # fmt: skip


@pytest.mark.parametrize(
    ("text", "most"), [("512x512:512x1024", 4), ("256x256:1024x1024", 16), ("64x64:8192x8192", 48)]
)
def test_a_range_is_built_in_bounded_time_however_wide_it_is(text: str, most: int) -> None:
    profile = Profile.parse(text, max_batch=8)
    found = sizes([profile])
    assert len({(height, width) for _, height, width in found}) <= most
    assert {batch for batch, _, _ in found} == {1, 2, 4, 8}
    assert (1, profile.min_height, profile.min_width) in found  # does not fill a GPU
    assert (8, profile.max_height, profile.max_width) in found  # fills it


def product_kernels(
    sizes: Iterable[tuple[int, int]], batches: Iterable[int], device: Device
) -> set[tuple[object, ...]]:
    """What decides the kernels of SD1.5's quantized 3x3 convolutions at these sizes and batches."""
    found: set[tuple[object, ...]] = set()
    for (height, width), batch, level in product(sizes, batches, range(3, 7)):
        features = height >> level, width >> level
        for rows, outputs, added in product((batch, 2 * batch), (320, 640, 1280), (False, True)):
            tile = tile_for((rows, *features, outputs), 3, device, added=added)
            found.add((level, outputs, added, tile, box(tile.pixels, rows, *features)))
    return found


box = cache(box_of)


@pytest.mark.parametrize("device", [Device(132, 232_448), Device(128, 101_376)], ids=["h200", "rtx4090"])
@pytest.mark.parametrize("max_batch", [1, 6])
def test_a_range_with_quantized_layers_is_run_at_some_sizes_that_have_every_kernel(
    device: Device, max_batch: int
) -> None:
    found = sizes([Profile.parse("256x256:1024x1024", max_batch=max_batch)], quantized=True)
    shapes = {(height, width) for _, height, width in found}
    assert len(shapes) <= 64  # of 169
    needed = product_kernels(product(range(256, 1025, 64), repeat=2), range(1, max_batch + 1), device)  # type: ignore[arg-type]
    assert needed <= product_kernels(shapes, {batch for batch, _, _ in found}, device)


def test_batches_are_run_in_powers_of_two_and_the_largest() -> None:
    assert [batch for batch, _, _ in sizes([Profile.parse("512x512", max_batch=6)])] == [1, 2, 4, 6]


def test_archives_are_unpacked_together_where_triton_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "elsewhere")
    for name in ("one", "two"):
        launcher = tmp_path / name / f"key-{name}" / "launcher.so"
        launcher.parent.mkdir(parents=True)
        launcher.write_bytes(name.encode())
        launcher.chmod(0o755)
        archive_kernels(tmp_path / name, tmp_path / f"{name}.zip")
    folder = install_kernels([tmp_path / "one.zip", tmp_path / "two.zip"])
    assert os.environ[CACHE] == str(folder)
    assert {path.read_text() for path in folder.rglob("launcher.so")} == {"one", "two"}


def test_kernels_of_a_second_set_join_those_of_the_first_and_change_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Triton looks in one folder: a set of its own for each would hide the kernels of the others."""
    monkeypatch.setenv(CACHE, "elsewhere")
    for name, keys in (("one", ("shared", "own-1")), ("two", ("shared", "own-2"))):
        for key in keys:
            path = tmp_path / name / f"joined-{key}" / "kernel.cubin"
            path.parent.mkdir(parents=True)
            path.write_text(f"{key} of {name}")
        archive_kernels(tmp_path / name, tmp_path / f"{name}.zip")
    folder = install_kernels([tmp_path / "one.zip"])
    there = folder / "joined-shared" / "kernel.cubin"
    first = there.stat().st_ino, there.stat().st_mtime_ns
    assert install_kernels([tmp_path / "two.zip"]) == folder == Path(os.environ[CACHE])
    found = {path.parent.name: path.read_text() for path in folder.glob("joined-*/kernel.cubin")}
    assert found == {
        "joined-shared": "shared of one",
        "joined-own-1": "own-1 of one",
        "joined-own-2": "own-2 of two",
    }
    assert (there.stat().st_ino, there.stat().st_mtime_ns) == first


def test_a_group_says_where_its_parts_are_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "elsewhere")
    group = tmp_path / "built" / "key" / "__grp__kernel.json"
    group.parent.mkdir(parents=True)
    group.write_text(json.dumps({"child_paths": {"kernel.cubin": str(group.parent / "kernel.cubin")}}))
    archive_kernels(tmp_path / "built", tmp_path / "kernels.zip")
    folder = install_kernels([tmp_path / "kernels.zip"])
    found = json.loads((folder / "key" / "__grp__kernel.json").read_text())
    assert found == {"child_paths": {"kernel.cubin": str(folder / "key" / "kernel.cubin")}}


def test_the_same_files_make_the_same_archive(tmp_path: Path) -> None:
    (tmp_path / "kernels").mkdir()
    (tmp_path / "kernels" / "a.cubin").write_bytes(b"code")
    archive_kernels(tmp_path / "kernels", tmp_path / "one.zip")
    os.utime(tmp_path / "kernels" / "a.cubin", (0, 10**9))
    archive_kernels(tmp_path / "kernels", tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, on which they compile")
def test_kernels_that_do_not_compile_are_named_and_leave_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    folder = tiny_model()
    weights = find_weights(str(folder / "model"), str(folder / "controlnet"))
    profile = Profile.parse("64x64", max_batch=1)
    job = KernelJob("hint", component_specs(Geometry())["hint"], weights, "fp16", (profile,), tmp_path / "a.zip")
    with pytest.raises(BuildFailed, match="hint's kernels could not be compiled: "):
        job.compile()
    assert list((tmp_path / "scratch").glob("kernels-*")) == []
    assert not job.path.exists()
    assert CACHE not in os.environ


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, for which they are built")
def test_a_set_is_not_built_without_the_gpu_that_runs_it() -> None:
    with pytest.raises(BackendUnavailable, match="triton sets are built on the machine, or the kind of machine"):
        recipe_for("triton", precision="fp16", profiles=[Profile.parse("64x64", max_batch=1)], capability=None)


def test_other_code_makes_other_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    before = sources_digest()
    assert before == sources_digest()
    monkeypatch.setattr(backend, "file_sha256", lambda path: f"another {path.name}")
    assert sources_digest() != before


def test_after_an_empty_cache_the_one_before_it_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CACHE, "elsewhere")
    with empty_cache() as folder:
        assert os.environ[CACHE] == str(folder)
    assert os.environ[CACHE] == "elsewhere"
    monkeypatch.delenv(CACHE)
    with empty_cache():
        pass
    assert CACHE not in os.environ
