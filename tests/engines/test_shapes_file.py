"""`engines build --sizes`: the file, and what is said of others."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engines import cli
from engines.backends import registry
from engines.shapes_file import STDIN, read_shapes
from tests.engines.conftest import Ended

GOOD = {"what": "producer sizes", "rows": 3, "shapes": ["64x64", "64x128"], "ranges": ["64x64:64x128"]}


def test_backends_that_take_ranges_get_them_and_others_get_single_shapes(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps(GOOD))
    assert read_shapes(file, ranges=True) == ["64x64:64x128"]
    assert read_shapes(file, ranges=False) == ["64x64", "64x128"]


def test_standard_input_is_a_file_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(GOOD).encode())))
    assert read_shapes(STDIN, ranges=True) == ["64x64:64x128"]
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(ValueError, match="standard input is closed; write it with: producer sizes"):
        read_shapes(STDIN, ranges=True)


BAD = {
    "empty": (b" \n", "is empty"),
    "no JSON": (b"512x512", "is not JSON"),
    "two lines": (b"{}\n{}", "is not JSON"),
    "no UTF-8": (b"\xff\xfe\0", "is not JSON"),
    "deep": (b"[" * 100_000, "is not JSON"),
    "a list": (b"[]", "is not what producer sizes prints"),
    "another command's": (b'{"what": "engines score"}', "is not what producer sizes prints"),
    "no list": (json.dumps(GOOD | {"ranges": "64x64"}).encode(), "'ranges' is not a list of texts"),
    "numbers": (json.dumps(GOOD | {"shapes": [64]}).encode(), "'shapes' is not a list of texts"),
    "no size": (json.dumps(GOOD | {"shapes": [], "ranges": []}).encode(), "names no size: no picture of its 3 rows"),
}


@pytest.mark.parametrize(("data", "why"), BAD.values(), ids=BAD.keys())
def test_another_file_is_refused_with_a_sentence(data: bytes, why: str, tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_bytes(data)
    with pytest.raises(ValueError, match=why):
        read_shapes(file, ranges=True)


def test_the_command_line_says_what_is_wrong(engines: Callable[..., Ended], tmp_path: Path) -> None:
    common = ("build", "--model", "none", "--out", tmp_path / "set", "--backend", "torch")
    ended = engines(*common)
    assert ended.code == 2
    assert "name at least one, or a file of producer sizes with --sizes" in ended.err
    for name in (tmp_path / "none.json", tmp_path):
        ended = engines(*common, "--sizes", name)
        assert ended.code == 2
        assert "cannot be read" in ended.err
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps(GOOD | {"ranges": ["64x65"]}))
    ended = engines(*common, "--sizes", file)
    assert ended.code == 2
    assert "64x65: sides must be multiples of 64 pixels" in ended.err
    assert "--sizes" in ended.err


def test_the_profiles_of_a_backend_begin_with_those_of_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "sizes.json"
    file.write_text(json.dumps(GOOD))

    def profiles(backend: str, *shapes: str) -> list[str]:
        chosen = registry.choose(backend)
        made = cli._profiles_for(chosen, list(shapes), file, max_batch=4, context_chunks=1)
        return [each.text for each in made]

    assert profiles("torch") == ["64x64:64x128"]
    assert profiles("torch", "64x128", "64x64:64x128") == ["64x128", "64x64:64x128"]
    assert profiles("inductor", "64x128") == ["64x128", "64x64"]
