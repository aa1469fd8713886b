"""Single files: every tensor of every part comes from the file, and a fault in it is named."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.errors import ModelRefused
from engines.model.checkpoint import MAKERS, SD15
from tests.engines.model.single_files import PARTS, TENSOR, assert_original, load, of
from tests.engines.model.test_networks import on_paper
from tests.engines.original import PREFIX, Original, original_state, save


@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_of_another_size_is_named(original: Original, tmp_path: Path, part: str) -> None:
    name = PREFIX[part] + TENSOR[part]
    tensors = original.tensors | {name: original.tensors[name][:-1]}
    path = save(tensors, tmp_path / "odd.safetensors")
    with pytest.raises(ModelRefused, match=rf"odd.safetensors has a {part} of other sizes: {name} is \(.*\), not \("):
        load(part, path, original, config=original.config)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", PARTS)
def test_nan_and_infinite_weights_are_refused(original: Original, tmp_path: Path, part: str, value: float) -> None:
    name = PREFIX[part] + TENSOR[part]
    spoilt = original.tensors[name].clone()
    spoilt.view(-1)[3] = value
    path = save(original.tensors | {name: spoilt}, tmp_path / "spoilt.ckpt")
    with pytest.raises(ModelRefused, match=rf"SD1.5's {part}: {name} has values that are NaN or infinite"):
        load(part, path, original, config=original.config)


@pytest.mark.parametrize("part", PARTS)
def test_a_surplus_tensor_has_no_place(original: Original, tmp_path: Path, part: str) -> None:
    path = save(original.tensors | {f"{PREFIX[part]}notes": torch.ones(3)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: notes has no place"):
        load(part, path, original, config=original.config)


@pytest.mark.parametrize(
    ("part", "name", "sentence"),
    [
        ("vae", "decoder.up.3.attn.0.q.weight", "decoder.up.3.attn.0.q.weight has no place"),
        ("vae", "quantize.embedding.weight", "quantize.embedding.weight says that it has a quantised latent space"),
        ("unet", "label_emb.0.0.weight", "label_emb.0.0.weight says that it has an embedding of classes"),
        ("unet", "input_blocks.1.0.in_layers.9.weight", "has no place"),
        ("unet", "output_blocks.2.2.conv.extra", "has no place"),
        ("controlnet", "input_hint_block.16.weight", "has no place"),
        ("text_encoder", "text_model.encoder.layers.0.self_attn.rotary.weight", "has no place"),
    ],
)
def test_what_diffusers_conversion_would_drop_is_refused(
    original: Original, tmp_path: Path, part: str, name: str, sentence: str
) -> None:
    path = save(original.tensors | {PREFIX[part] + name: torch.ones(3, 3)}, tmp_path / "more.safetensors")
    with pytest.raises(ModelRefused, match=sentence):
        load(part, path, original, config=original.config)


def test_trainings_own_tensors_are_listed(original: Original, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    more = {"first_stage_model.loss.logvar": torch.ones(1), "first_stage_model.model_ema.decay": torch.ones(1)}
    path = save(original.tensors | more, tmp_path / "trained.safetensors")
    with caplog.at_level(logging.WARNING):
        assert_original("vae", load("vae", path, original, config=original.config), original)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} has tensors that SD1.5's vae does not use: loss.logvar, model_ema.decay"
    ]


def test_a_missing_bias_of_a_resampling_layer_is_named(original: Original, tmp_path: Path) -> None:
    """diffusers' functions expect these, and end with a KeyError."""
    for part, name in (("unet", "output_blocks.2.1.conv.bias"), ("vae", "decoder.up.1.upsample.conv.bias")):
        tensors = {each: t for each, t in original.tensors.items() if each != PREFIX[part] + name}
        with pytest.raises(ModelRefused, match=rf"SD1.5's {part}: \S+\.bias is missing$"):
            load(part, save(tensors, tmp_path / "lacking.safetensors"), original, config=original.config)


def test_a_merge_that_lacks_a_piece_of_the_text_encoder_is_refused(original: Original, tmp_path: Path) -> None:
    for name in ("embeddings.token_embedding.weight", "embeddings.position_embedding.weight", "final_layer_norm.bias"):
        tensors = {each: t for each, t in original.tensors.items() if not each.endswith(f"text_model.{name}")}
        with pytest.raises(ModelRefused, match=rf"SD1.5's text_encoder: \S*{name} is missing$"):
            load("text_encoder", save(tensors, tmp_path / "merge.safetensors"), original, config=original.config)


def test_a_full_size_text_encoder_has_twelve_layers() -> None:
    """Its number of layers is in no .yaml: a file without the last one would describe a shorter encoder."""
    state = original_state("text_encoder", on_paper().text_encoder)
    shorter = {PREFIX["text_encoder"] + name: t for name, t in state.items() if ".layers.11." not in name}
    network, renamed = MAKERS["text_encoder"](shorter, SD15)
    assert len({name for name in network.state_dict() if name not in renamed}) == 16


@pytest.mark.parametrize(
    "name",
    [
        "controlnet_cond_embedding.conv_in.weight",
        "controlnet_cond_embedding.blocks.5.weight",
        "time_embedding.linear_1.bias",
    ],
)
def test_a_tensor_that_a_controlnet_with_diffusers_names_lacks_is_named(
    original: Original, tmp_path: Path, name: str
) -> None:
    (source,) = original.controlnet.glob("*.safetensors")
    tensors = load_file(source)
    del tensors[name]
    save_file(tensors, tmp_path / "control.safetensors")
    with pytest.raises(ModelRefused, match=rf"SD1.5's controlnet: {name} is missing$"):
        load("controlnet", original.model, original, control=tmp_path / "control.safetensors")


@pytest.mark.parametrize("name", ["time_embed.0.weight", "input_hint_block.0.weight", "zero_convs.0.0.weight"])
def test_a_tensor_that_a_bare_controlnet_lacks_is_named(original: Original, tmp_path: Path, name: str) -> None:
    tensors = of(original, "controlnet", bare=True)
    del tensors[name]
    with pytest.raises(ModelRefused, match=r"SD1.5's controlnet: \S+ is missing$"):
        load("controlnet", original.model, original, control=save(tensors, tmp_path / "control.safetensors"))


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_named_as_the_file_would_name_it(original: Original, tmp_path: Path, part: str) -> None:
    name = PREFIX[part] + TENSOR[part]
    tensors = {each: tensor for each, tensor in original.tensors.items() if each != name}
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: {name} is missing$"):
        load(part, save(tensors, tmp_path / "lacking.safetensors"), original, config=original.config)


def test_what_lies_beside_the_parts_is_listed(
    original: Original, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    usual = ("alphas_cumprod", "sqrt_recip_alphas_cumprod", "model_ema.decay", "cond_stage_model.logit_scale", "v_pred")
    path = save(original.tensors | {name: torch.ones(1) for name in usual}, tmp_path / "usual.ckpt")
    assert load("unet", path, original, config=original.config)
    assert caplog.records == []
    path = save(original.tensors | {"embedding_manager.token": torch.ones(1)}, tmp_path / "unusual.safetensors")
    assert load("unet", path, original, config=original.config)
    assert [record.getMessage() for record in caplog.records] == [
        f"{path} has tensors that are in no part of SD1.5: embedding_manager.token"
    ]


def test_a_lora_beside_the_parts_is_refused(original: Original, tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight"
    path = save(original.tensors | {name: torch.ones(1)}, tmp_path / "unmerged.safetensors")
    with pytest.raises(
        ModelRefused, match=rf"is not SD1.5's checkpoint: {name} says that it has a LoRA's layers: merge"
    ):
        load("unet", path, original, config=original.config)
