"""Every tensor of a network comes from the file: what is missing, has no place or holds no numbers is named."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engines.errors import ModelRefused
from engines.model.folder import load_folder
from tests.engines.model.folders import (
    PARTS,
    TENSOR,
    assert_equal,
    changed,
    copied,
    folder_of,
    holding,
    name_in,
    put,
    weights_in,
)
from tests.engines.original import Original


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_named(original: Original, tmp_path: Path, part: str) -> None:
    folder = changed(original, part, tmp_path, lambda tensors: tensors.pop(name_in(tensors, part)))
    with pytest.raises(ModelRefused, match=rf"{part} cannot be read as SD1.5's {part}: \S*{TENSOR[part]} is missing$"):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize("part", PARTS)
def test_a_tensor_of_another_size_is_named(original: Original, tmp_path: Path, part: str) -> None:
    folder = changed(original, part, tmp_path, put(part, lambda tensor: tensor[:-1]))
    with pytest.raises(
        ModelRefused,
        match=rf"has a {part} of other sizes: \S*{TENSOR[part]} is \(.*\), not \(.*\); its config.json says so",
    ):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("part", PARTS)
def test_nan_and_infinite_weights_are_refused(original: Original, tmp_path: Path, part: str, value: float) -> None:
    folder = changed(original, part, tmp_path, put(part, holding(value)))
    for dtype in (torch.float32, torch.float16):
        with pytest.raises(ModelRefused, match=rf"\S*{TENSOR[part]} has values that are NaN or infinite"):
            load_folder(part, folder, dtype)


def test_weights_too_large_for_half_precision_are_refused_there_alone(original: Original, tmp_path: Path) -> None:
    folder = changed(original, "unet", tmp_path, put("unet", holding(1e5)))
    assert load_folder("unet", folder, torch.float32)
    with pytest.raises(ModelRefused, match=r"to_k.weight has values that are too large for float16: build with --prec"):
        load_folder("unet", folder, torch.float16)


@pytest.mark.parametrize("part", PARTS)
def test_a_surplus_tensor_is_listed(
    original: Original, tmp_path: Path, part: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = changed(original, part, tmp_path, lambda tensors: tensors.update(notes=torch.ones(3)))
    with caplog.at_level(logging.WARNING):
        mine = load_folder(part, folder, torch.float32)
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder} has tensors that SD1.5's {part} does not use: notes"
    ]
    assert_equal(mine, load_folder(part, folder_of(original, part), torch.float32))


def test_an_untouched_model_gives_no_warning(original: Original, caplog: pytest.LogCaptureFixture) -> None:
    load_folder("text_encoder", folder_of(original, "text_encoder"), torch.float32)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("part", "name", "sentence"),
    [
        ("unet", "time_embedding.cond_proj.weight", "an embedding of the guidance scale, as LCM models have"),
        ("unet", "add_embedding.linear_1.weight", "conditions that SDXL adds"),
        ("unet", "class_embedding.linear_1.weight", "an embedding of classes"),
        ("unet", "down_blocks.0.motion_modules.0.proj_in.weight", "a video model's layers"),
        ("unet", "down_blocks.0.temp_convs.0.conv1.0.weight", "a video model's layers"),
        ("unet", "up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q.lora_A.weight", "a LoRA's layers"),
        ("unet", "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "a LoRA's layers"),
        ("unet", "encoder_hid_proj.image_embeds.weight", "an IP-Adapter's layers"),
        ("unet", "mid_block.attentions.0.transformer_blocks.0.fuser.linear.weight", "GLIGEN's layers"),
        ("unet", "conv_in.weight.absmax", "quantised weights"),
        ("controlnet", "add_embedding.linear_1.weight", "conditions that SDXL adds"),
        ("controlnet", "task_embedding", "a ControlNet for several conditions"),
        ("text_encoder", "text_model.encoder.layers.0.self_attn.q_proj.lora_linear_layer.up.weight", "a LoRA's"),
        ("vae", "quantize.embedding.weight", "a quantised latent space"),
    ],
)
def test_a_surplus_tensor_of_another_kind_of_model_is_refused(
    original: Original, tmp_path: Path, part: str, name: str, sentence: str
) -> None:
    folder = changed(original, part, tmp_path, lambda tensors: tensors.update({name: torch.ones(3)}))
    with pytest.raises(ModelRefused, match=rf"is not SD1.5's {part}: {name} says that it has {sentence}"):
        load_folder(part, folder, torch.float32)


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("unet", "mid_block.attentions.0.transformer_blocks.1.attn1.to_q.weight"),
        ("controlnet", "controlnet_down_blocks.12.weight"),
        ("vae", "encoder.down_blocks.3.attentions.0.to_q.weight"),
        ("text_encoder", "text_model.encoder.layers.2.mlp.fc1.weight"),
    ],
)
def test_a_layer_more_than_the_configuration_describes_is_refused(
    original: Original, tmp_path: Path, part: str, name: str
) -> None:
    folder = changed(original, part, tmp_path, lambda tensors: tensors.update({name: torch.ones(3)}))
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: {name} has no place"):
        load_folder(part, folder, torch.float32)


def test_a_text_encoders_projection_and_positions_are_not_used(
    original: Original, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A CLIPTextModelWithProjection has the first; merges that cast positions to half precision spoilt the second."""
    extra = {"text_projection.weight": torch.ones(64, 64), "text_model.embeddings.position_ids": torch.ones(1, 77)}
    folder = changed(original, "text_encoder", tmp_path, lambda tensors: tensors.update(extra))
    mine = load_folder("text_encoder", folder, torch.float32)
    assert_equal(mine, load_folder("text_encoder", folder_of(original, "text_encoder"), torch.float32))
    assert [record.getMessage().removeprefix(f"{folder} ") for record in caplog.records] == [
        "has tensors that SD1.5's text_encoder does not use: text_projection.weight",
        "has text_model.embeddings.position_ids other than 0, 1, 2, ...: they are counted here, as diffusers does",
    ]


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float64, torch.float8_e4m3fn, torch.float8_e5m2])
def test_every_floating_point_number_is_read(original: Original, tmp_path: Path, stored: torch.dtype) -> None:
    folder = changed(
        original, "vae", tmp_path, lambda tensors: tensors.update({n: t.to(stored) for n, t in tensors.items()})
    )
    expected = load_folder("vae", folder_of(original, "vae"), torch.float32)
    mine = load_folder("vae", folder, torch.float32)
    for name, tensor in expected.state_dict().items():
        assert torch.equal(mine.state_dict()[name], tensor.to(stored).to(torch.float32)), name


@pytest.mark.parametrize("stored", [torch.int8, torch.uint8, torch.int64, torch.bool])
def test_numbers_of_another_kind_are_refused(original: Original, tmp_path: Path, stored: torch.dtype) -> None:
    folder = changed(original, "unet", tmp_path, put("unet", lambda tensor: tensor.to(stored)))
    kind = str(stored).removeprefix("torch.")
    with pytest.raises(ModelRefused, match=rf"to_k.weight holds no floating-point numbers \({kind}\): quantised files"):
        load_folder("unet", folder, torch.float32)


def test_two_loads_share_no_memory_with_the_file(original: Original, tmp_path: Path) -> None:
    """The file may be replaced, or grow shorter, while the network is in use."""
    folder = copied(original, "vae", tmp_path)
    network = load_folder("vae", folder, torch.float32)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights_in(folder).write_bytes(b"\0" * weights_in(folder).stat().st_size)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_tensors_that_are_no_plain_ones_are_refused(original: Original, tmp_path: Path) -> None:
    folder = copied(original, "vae", tmp_path)
    tensors = load_file(weights_in(folder))
    weights_in(folder).unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch 2.11 remarks on sparse tensors
        sparse = tensors["quant_conv.bias"].to_sparse()
    for value in (sparse, tensors["quant_conv.bias"].to("meta")):
        torch.save(tensors | {"quant_conv.bias": value}, folder / "diffusion_pytorch_model.bin")
        with pytest.raises(ModelRefused, match=r"quant_conv.bias is sparse or has no values"):
            load_folder("vae", folder, torch.float32)
