"""Files that are no weights, whatever their name says: each gets a sentence, and `engines build` ends with 3."""

from __future__ import annotations

import gzip
import io
import logging
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import ModelRefused
from engines.model.file_kinds import kind_of
from engines.model.tensor_files import read_tensors
from tests.engines.conftest import Ended
from tests.engines.sets import copy_of_model
from tests.models import tiny_model

PAGE = b"\n<!DOCTYPE html>\n<html><head><title>model.ckpt at main</title></head></html>"
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4265380512\n"


def _zip() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("model.safetensors", b"0" * 100)
    return data.getvalue()


def _tar() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as file:
        file.addfile(tarfile.TarInfo("model.ckpt"))
    return data.getvalue()


CASES = [
    (PAGE, "is a web page that was saved under this name, not a checkpoint: download the file itself"),
    (b"\xef\xbb\xbf<html>", "is a web page"),
    (POINTER, "is a pointer of git-lfs, not the file that it stands for: run 'git lfs pull'"),
    (
        b"Access to model X is restricted.",
        r"is a text, not a checkpoint \(it begins 'Access to model X is restricted.'\)",
    ),
    ("Zugriff verweigert für ".encode() * 100, "is a text, not a checkpoint"),
    (b'{"error": "Entry not found"}', "is a text, not a checkpoint"),
    (b"", "is not a whole file: it is empty"),
    (b"\x80", "is not a whole checkpoint: it begins neither as a safetensors file nor as"),
    (bytes(range(1, 256)), "is not a whole checkpoint: it begins neither"),
    (b"\0" * 4096, "is not a whole checkpoint: it begins neither"),
    (gzip.compress(b"model"), "is a gzip archive, not a checkpoint: unpack it and name the file inside"),
    (_tar(), "is a tar archive, not a checkpoint"),
    (b"7z\xbc\xaf\x27\x1c" + b"\0" * 40, "is a 7z archive"),
    (_zip(), "is a zip archive, not a checkpoint"),
    (_zip()[:60], "is not a whole checkpoint: it is a zip file whose end is missing"),
    (b"GGUF\x03\0\0\0" + b"\0" * 90, r"is a quantised file of llama.cpp's kind \(GGUF\)"),
    (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, r"is a picture \(PNG\)"),
    (b"\x10\0\0\0\0\0\0\0{not json at all", "is not a whole safetensors file"),
    (b"\xff\xff\0\0\0\0\0\0{}", "is not a whole safetensors file"),
    (b"\x80\x02}q\x00(", "is not a whole checkpoint"),
    (b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", "is not a whole checkpoint"),
]


@pytest.mark.parametrize("name", ["model.safetensors", "model.ckpt"])
@pytest.mark.parametrize(("data", "sentence"), CASES, ids=range(len(CASES)))
def test_a_file_that_is_no_weights_is_said_to_be_what_it_is(
    tmp_path: Path, name: str, data: bytes, sentence: str
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(ModelRefused, match=rf"{name} {sentence}"):
        read_tensors(path)


def test_the_contents_decide_and_not_the_ending(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}
    torch.save({"state_dict": tensors}, tmp_path / "pickle.safetensors")
    torch.save(tensors, tmp_path / "old.safetensors", _use_new_zipfile_serialization=False)
    save_file(tensors, tmp_path / "new.ckpt")
    assert kind_of(tmp_path / "pickle.safetensors") == kind_of(tmp_path / "old.safetensors") == "pickle"
    assert kind_of(tmp_path / "new.ckpt") == "safetensors"
    for path in tmp_path.iterdir():
        read = read_tensors(path)
        assert list(read) == ["a", "b"], path
        assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items()), path
        assert list(read_tensors(path, lambda name: name == "b")) == ["b"]


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"gone.ckpt cannot be read: No such file or directory"):
        kind_of(tmp_path / "gone.ckpt")


@pytest.mark.parametrize(
    ("data", "sentence"), [CASES[0], CASES[2], CASES[6], CASES[13]], ids=["page", "pointer", "empty", "zip"]
)
def test_build_ends_with_exit_code_3_and_no_traceback(
    tmp_path: Path, engines: Callable[..., Ended], data: bytes, sentence: str
) -> None:
    (tmp_path / "model.ckpt").write_bytes(data)
    made = tiny_model()
    ended = engines(
        *("build", "--model", tmp_path / "model.ckpt", "--controlnet", made / "controlnet"),
        *("--tokenizer", made / "model" / "tokenizer", "--shape", "64x64", "--out", tmp_path / "set"),
        *("--backend", "torch"),
    )
    assert ended.code == 3
    assert sentence.partition(":")[0] in ended.err
    assert "Traceback" not in ended.err


def test_build_lists_surplus_tensors_on_stderr(
    tmp_path: Path, engines: Callable[..., Ended], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own, which the command line does not have
    folder = copy_of_model(tmp_path)
    (path,) = (folder / "model" / "vae").glob("*.safetensors")
    save_file(load_file(path) | {"notes": torch.ones(1)}, path)
    ended = engines(
        *("build", "--model", folder / "model", "--controlnet", folder / "controlnet", "--shape", "64x64"),
        *("--out", tmp_path / "set", "--backend", "torch"),
    )
    assert ended.code == 0
    assert "has tensors that SD1.5's vae does not use: notes" in ended.err


def test_a_page_in_a_folder_is_named(tmp_path: Path, engines: Callable[..., Ended]) -> None:
    folder = copy_of_model(tmp_path)
    (path,) = (folder / "model" / "unet").glob("*.safetensors")
    path.write_bytes(PAGE)
    ended = engines(
        *("build", "--model", folder / "model", "--controlnet", folder / "controlnet", "--shape", "64x64"),
        *("--out", tmp_path / "set", "--backend", "torch"),
    )
    assert ended.code == 3
    assert f"unet cannot be read as SD1.5's unet: {path} is a web page" in ended.err
