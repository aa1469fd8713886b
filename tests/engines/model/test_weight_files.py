"""Which files a network is read from, and which are fetched from the hub."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from engines.errors import ModelRefused
from engines.model.weight_files import files_to_fetch, weight_files

UNET = "diffusion_pytorch_model"
# Each is read where none of those before it is there.
VARIANTS = ("", ".fp16", ".bf16")
ORDER = {
    "unet": [f"{UNET}{variant}.{ending}" for variant in VARIANTS for ending in ("safetensors", "bin")],
    "text_encoder": [
        f"{name}{variant}.{ending}"
        for variant in VARIANTS
        for name, ending in (("model", "safetensors"), ("pytorch_model", "bin"))
    ],
}


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).write_text("")
    return folder


@pytest.mark.parametrize("part", ORDER)
def test_the_plain_file_is_read_before_a_variant(tmp_path: Path, part: str) -> None:
    touch(tmp_path, *ORDER[part], f"{UNET}.non_ema.safetensors")
    for name in ORDER[part]:
        assert weight_files(part, tmp_path) == [tmp_path / name]
        (tmp_path / name).unlink()
    with pytest.raises(ModelRefused, match=rf"it has no weights \(.*\); it has {UNET}.non_ema.safetensors"):
        weight_files(part, tmp_path)


def test_of_a_whole_file_and_one_in_pieces_each_library_reads_its_own_choice(tmp_path: Path) -> None:
    for stem in (UNET, "model"):
        touch(tmp_path, f"{stem}.safetensors", f"{stem}-00001-of-00001.safetensors")
        index = {"weight_map": {"a": f"{stem}-00001-of-00001.safetensors"}}
        (tmp_path / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    assert weight_files("unet", tmp_path) == [tmp_path / f"{UNET}-00001-of-00001.safetensors"]
    assert weight_files("text_encoder", tmp_path) == [tmp_path / "model.safetensors"]


@pytest.mark.parametrize("index", ["bin.index.fp16.json", "safetensors.fp16.index.json", "bin.index.json"])
def test_the_index_of_a_variant_has_two_spellings(tmp_path: Path, index: str) -> None:
    pieces = [f"{UNET}.fp16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    touch(tmp_path, *pieces)
    (tmp_path / f"{UNET}.{index}").write_text(
        json.dumps({"weight_map": {"a": pieces[0], "b": pieces[1], "c": pieces[0]}})
    )
    assert weight_files("vae", tmp_path) == [tmp_path / piece for piece in pieces]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not an index of weights"),
        ("[]", "is not an index of weights"),
        ('{"weight_map": ["a"]}', "is not an index of weights"),
        ('{"weight_map": {}}', "names no files"),
        (
            '{"weight_map": {"a": "../secret.bin"}}',
            "names '../secret.bin', which is not a file of weights in its own folder",
        ),
        ('{"weight_map": {"a": "config.json"}}', "names 'config.json', which is not a file of weights"),
        ('{"weight_map": {"a": "gone.bin"}}', "gone.bin is missing: diffusion_pytorch_model.bin.index.json names it"),
    ],
)
def test_a_damaged_index_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / f"{UNET}.bin.index.json").write_text(text)
    with pytest.raises(ModelRefused, match=sentence):
        weight_files("unet", tmp_path)


def repository(*weights: str) -> list[str]:
    """A whole model on the hub, with these weights for each network."""
    parts = [f"{part}/{name}" for part, name in itertools.product(("unet", "vae"), weights)]
    texts = ["model_index.json", "unet/config.json", "vae/config.json", "tokenizer/vocab.json", "tokenizer/merges.txt"]
    return sorted([*parts, *texts, "scheduler/scheduler_config.json", "text_encoder/config.json"])


@pytest.mark.parametrize(
    "weights",
    [
        [f"{UNET}.safetensors", f"{UNET}.bin"],
        [f"{UNET}.bin"],
        [f"{UNET}.fp16.safetensors", f"{UNET}.fp16.bin"],
        [f"{UNET}.fp16.bin"],
        [f"{UNET}-00001-of-00002.safetensors", f"{UNET}-00002-of-00002.safetensors", f"{UNET}.safetensors.index.json"],
        [f"{UNET}.fp16-00001-of-00001.safetensors", f"{UNET}.safetensors.index.fp16.json"],
    ],
)
def test_weights_that_are_all_there_is_are_fetched(weights: list[str]) -> None:
    assert files_to_fetch(repository(*weights)) == repository(*weights)


def test_a_variant_beside_the_plain_weights_is_not_fetched() -> None:
    plain = [f"{UNET}.safetensors", f"{UNET}.bin"]
    variants = [f"{UNET}.fp16.safetensors", f"{UNET}.fp16.bin", f"{UNET}.non_ema.bin", f"{UNET}.non_ema.safetensors"]
    assert files_to_fetch(repository(*plain, *variants)) == repository(*plain)


def test_each_folder_is_looked_at_by_itself() -> None:
    names = [f"unet/{UNET}.fp16.safetensors", "text_encoder/model.safetensors", "text_encoder/model.fp16.safetensors"]
    assert files_to_fetch(["model_index.json", *names]) == ["model_index.json", *names[:2]]


def test_what_no_network_is_read_from_is_not_fetched() -> None:
    """Single files beside a whole model are the same weights again: 12 GB for SD1.5."""
    others = ["v1-5-pruned.safetensors", "v1-5-pruned.ckpt", "README.md", "safety_checker/model.safetensors"]
    others += [f"unet/{UNET}.msgpack", "unet/model.onnx", "vae/model.onnx.bin", "image_encoder/model.safetensors"]
    model = repository(f"{UNET}.safetensors")
    assert files_to_fetch([*model, *others]) == model


def test_a_controlnets_repository_has_its_weights_at_the_top() -> None:
    names = ["config.json", f"{UNET}.safetensors", f"{UNET}.bin", f"{UNET}.fp16.safetensors", "images/input.png"]
    assert files_to_fetch(names) == names[:3]
    half = ["config.json", f"{UNET}.fp16.safetensors"]
    assert files_to_fetch(half) == half
