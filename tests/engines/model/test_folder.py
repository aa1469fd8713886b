"""Folders in diffusers' layout, as every version of the libraries writes them: read as from_pretrained reads them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import ModelRefused
from engines.model.folder import CLASSES, load_folder
from tests.engines.model.folders import (
    PARTS,
    Tensors,
    assert_equal,
    changed,
    copied,
    folder_of,
    name_in,
    pretrained,
    weights_in,
)
from tests.engines.original import Original


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("part", PARTS)
def test_a_network_is_the_one_that_from_pretrained_gives(original: Original, part: str, dtype: torch.dtype) -> None:
    folder = folder_of(original, part)
    mine, theirs = load_folder(part, folder, dtype), pretrained(part, folder, torch_dtype=dtype)
    assert_equal(mine, theirs)
    fields = (
        {key: value for key, value in theirs.config.to_dict().items() if not key.startswith("_")}
        if (part == "text_encoder")
        else {key: value for key, value in theirs.config.items() if not key.startswith("_")}
    )
    for key, value in fields.items():
        if key not in ("dtype", "torch_dtype", "architectures"):
            assert getattr(mine.config, key) == value, key


@pytest.mark.parametrize("prefix", ["", "text_model."])
def test_a_text_encoder_of_every_version_of_transformers_is_read(
    original: Original, tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(tensors: Tensors) -> None:
        renamed = {prefix + name.removeprefix("text_model."): tensor for name, tensor in tensors.items()}
        tensors.clear()
        tensors.update(renamed, **{f"{prefix}embeddings.position_ids": torch.arange(77)[None]})

    folder = changed(original, "text_encoder", tmp_path, rename)
    mine = load_folder("text_encoder", folder, torch.float32)
    assert_equal(mine, load_folder("text_encoder", folder_of(original, "text_encoder"), torch.float32))
    assert caplog.records == []


def test_a_text_encoder_with_both_spellings_of_a_name_is_refused(original: Original, tmp_path: Path) -> None:
    def double(tensors: Tensors) -> None:
        name = name_in(tensors, "text_encoder")
        bare = name.removeprefix("text_model.")
        tensors.update({bare: tensors[name].clone(), f"text_model.{bare}": tensors[name]})

    folder = changed(original, "text_encoder", tmp_path, double)
    with pytest.raises(ModelRefused, match=r"encoder.layers.1.mlp.fc1.weight has no place"):
        load_folder("text_encoder", folder, torch.float32)


def test_a_vae_with_attention_as_diffusers_once_wrote_it_is_read(original: Original, tmp_path: Path) -> None:
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            for new, former in old.items():
                if f".attentions.0.{new}." in name:
                    tensors[name.replace(f".{new}.", f".{former}.")] = tensors.pop(name)

    folder = changed(original, "vae", tmp_path, rename)
    assert "decoder.mid_block.attentions.0.proj_attn.bias" in load_file(weights_in(folder))
    mine = load_folder("vae", folder, torch.float32)
    assert_equal(mine, pretrained("vae", folder))
    assert_equal(mine, load_folder("vae", folder_of(original, "vae"), torch.float32))


@pytest.mark.parametrize("part", ["unet", "text_encoder"])
@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_pieces_are_read(original: Original, tmp_path: Path, part: str, variant: str | None) -> None:
    network = load_folder(part, folder_of(original, part), torch.float16)
    network.save_pretrained(tmp_path / part, max_shard_size="200KB", variant=variant)
    assert len(list((tmp_path / part).glob("*.safetensors"))) > 1
    assert_equal(load_folder(part, tmp_path / part, torch.float16), network)
    (piece, *_) = sorted((tmp_path / part).glob("*.safetensors"))
    piece.unlink()
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: {piece.name} is missing: .* names it"):
        load_folder(part, tmp_path / part, torch.float16)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("ending", ["fp16.safetensors", "fp16.bin", "bin"])
def test_a_variant_or_a_pickle_is_read_where_it_is_all_there_is(
    original: Original, tmp_path: Path, part: str, ending: str
) -> None:
    folder = copied(original, part, tmp_path)
    source = weights_in(folder)
    tensors = {name: tensor.half() for name, tensor in load_file(source).items()}
    source.unlink()
    if ending.endswith("bin"):
        stem = "pytorch_model" if part == "text_encoder" else "diffusion_pytorch_model"
        torch.save(tensors, folder / f"{stem}.{ending}")
    else:
        save_file(tensors, source.with_suffix(f".{ending}"))
    expected = load_folder(part, folder_of(original, part), torch.float32).half().float()
    assert_equal(load_folder(part, folder, torch.float32), expected)


def test_the_plain_weights_are_preferred_to_a_variant(original: Original, tmp_path: Path) -> None:
    folder = copied(original, "vae", tmp_path)
    save_file({"other": torch.ones(1)}, folder / "diffusion_pytorch_model.fp16.safetensors")
    assert load_folder("vae", folder, torch.float32)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (None, "has no config.json, so the sizes of its {part} are not known"),
        ("{", "config.json is not JSON: "),
        ("\xff\xfe", "config.json is not JSON: "),
        ("[1]", "config.json is not a configuration: it holds list, no fields by name"),
    ],
)
def test_a_damaged_configuration_is_named(
    original: Original, tmp_path: Path, part: str, text: str | None, sentence: str
) -> None:
    folder = copied(original, part, tmp_path)
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text, encoding="latin-1")
    with pytest.raises(ModelRefused, match=sentence.format(part=part)):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("unet", "block_out_channels", "wide"),
        ("unet", "down_block_types", ["NoSuchBlock"] * 4),
        ("unet", "norm_num_groups", 7),
        ("vae", "block_out_channels", []),
        ("controlnet", "layers_per_block", None),
        ("text_encoder", "hidden_size", "wide"),
        ("text_encoder", "num_attention_heads", 7),
    ],
)
def test_a_configuration_that_describes_no_network_is_refused(
    original: Original, tmp_path: Path, part: str, field: str, value: object
) -> None:
    folder = copied(original, part, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {field: value}))
    with pytest.raises(ModelRefused, match=r"config\.json "):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize(("part", "name"), [("unet", "UNetMotionModel"), ("vae", "AutoencoderTiny")])
def test_a_network_of_another_class_is_refused(original: Original, tmp_path: Path, part: str, name: str) -> None:
    folder = copied(original, part, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"_class_name": name}))
    with pytest.raises(
        ModelRefused, match=rf"config.json describes a network of another class: {name}, not {CLASSES[part]}"
    ):
        load_folder(part, folder, torch.float32)
