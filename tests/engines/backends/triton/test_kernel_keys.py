"""Kernels that another version of the code compiled: warned of with a C compiler, refused without one."""

from __future__ import annotations

import logging
import shlex
from pathlib import Path

import pytest
import typer.main

from engines.backends.triton import hopper
from engines.backends.triton.kernel_cache import has_c_compiler
from engines.backends.triton.kernel_keys import check_kernels
from engines.cli import app
from engines.errors import EngineSetRefused
from engines.manifest import Manifest, load_manifest
from tests.models import tiny_engine_set

KEYS = {"one": "key of one", "two": "key of two", "attention_sm90": hopper.cache_key()}
FOLDER = Path("/sets/mine")


def current(architecture: str | None) -> dict[str, str]:
    assert architecture == "sm90"
    return KEYS


def triton_manifest(kernels: dict[str, str]) -> Manifest:
    fields = {"backend": "triton", "precision": "fp16", "architecture": "sm90", "kernels": kernels}
    return load_manifest(tiny_engine_set()).model_copy(update=fields)


def test_kernels_with_todays_keys_are_taken_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    extra = {"gone": "a kernel that this version does not have"}
    check_kernels(FOLDER, triton_manifest(KEYS | extra), current=current, can_compile=lambda: False)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("kernels", "count"), [({}, 3), ({"one": KEYS["one"]}, 2), (KEYS | {"two": "another"}, 1)], ids=str
)
def test_other_kernels_are_compiled_at_first_use_with_a_warning(
    kernels: dict[str, str], count: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A set that was built before keys were recorded has none of them."""
    with caplog.at_level(logging.WARNING, "engines"):
        check_kernels(FOLDER, triton_manifest(kernels), current=current, can_compile=lambda: True)
    (record,) = caplog.records
    assert record.name == "engines"
    assert f"{count} of 3 kernels in /sets/mine were compiled from another version of this code" in record.getMessage()
    assert "will be compiled at first use" in record.getMessage()


def test_without_a_compiler_they_are_refused_with_the_command_that_builds_them() -> None:
    with pytest.raises(EngineSetRefused, match=r"3 of 3 kernels in /sets/mine .* is no C compiler here") as caught:
        check_kernels(FOLDER, triton_manifest({}), current=current, can_compile=lambda: False)
    command = shlex.split(str(caught.value).partition("build the set again: ")[2])
    assert command[:2] == ["engines", "build"]
    parsed = typer.main.get_group(app).commands["build"].make_context("build", command[2:]).params
    source = triton_manifest({}).source
    assert {name: value for name, value in parsed.items() if value is not None} == {
        "model": source.model,
        "controlnet": source.controlnet,
        "shape": ["64x64:512x512"],
        "max_batch": 4,
        "backend": "triton",
        "precision": "fp16",
        "out": FOLDER,
        **{"lora": (), "embedding": (), "clip_skip": 1, "context_chunks": 1, "reuse": (), "version_compatible": False},
    }


def test_a_compiler_is_looked_for_where_triton_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    assert not has_c_compiler()
    monkeypatch.setenv("CC", "/opt/cc")
    assert has_c_compiler()
    monkeypatch.delenv("CC")
    (tmp_path / "clang").write_text("")
    (tmp_path / "clang").chmod(0o755)
    assert has_c_compiler()
