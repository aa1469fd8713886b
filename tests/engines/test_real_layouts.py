"""Models in the layouts that people have: each is read, or refused with a sentence that says what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.locate import find_weights
from engines.model.networks import load_network, load_networks
from engines.source import AdditionNames
from tests.engines.conftest import Ended
from tests.engines.layouts import NETWORKS, REFUSED, WORKING, made
from tests.engines.original import PREFIX, Original, make_original, save
from tests.models import tiny_model

ROUNDED = {"fp16 variant": torch.float16, "bf16 variant": torch.bfloat16, "bfloat16": torch.bfloat16}
SD15 = "name a model of Stable Diffusion 1.5, such as stable-diffusion-v1-5/stable-diffusion-v1-5"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return make_original(tmp_path_factory.mktemp("original"))


def control() -> str:
    return str(tiny_model() / "controlnet")


def states(model: Path) -> dict[str, dict[str, Tensor]]:
    """The values of the model's networks, by part."""
    weights = find_weights(str(model), control())
    return {part: load_network(part, weights, torch.float32).state_dict() for part in NETWORKS}


@pytest.fixture(scope="module")
def plain() -> dict[str, dict[str, Tensor]]:
    return states(tiny_model() / "model")


@pytest.mark.parametrize("name", [name for name in WORKING if name != "plain"])
def test_a_layout_that_is_read_gives_the_networks_of_the_plain_one(
    plain: dict[str, dict[str, Tensor]], name: str, tmp_path: Path
) -> None:
    dtype = ROUNDED.get(name, torch.float32)
    for part, found in states(made(name, tmp_path / "model")).items():
        assert list(found) == list(plain[part])
        assert all(torch.equal(found[key], tensor.to(dtype).float()) for key, tensor in plain[part].items()), part


def refused(engines: Callable[..., Ended], sentence: str, out: Path, model: Path, *options: object) -> None:
    command = ("build", "--model", model, "--shape", "64x64", "--backend", "torch", "--out", out, *options)
    ended = engines(*command)
    assert (ended.code, ended.out) == (3, "")
    assert sentence in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("name", list(REFUSED))
def test_another_layout_is_refused_with_a_sentence(engines: Callable[..., Ended], name: str, tmp_path: Path) -> None:
    model = made(name, tmp_path / "model")
    refused(engines, REFUSED[name][1], tmp_path / "set", model, "--controlnet", control())


def test_a_model_without_a_vae_is_built_with_one(engines: Callable[..., Ended], tmp_path: Path) -> None:
    model = made("VAE missing", tmp_path / "model")
    vae = tiny_model() / "model" / "vae"
    command = ("build", "--model", model, "--controlnet", control(), "--shape", "64x64", "--backend", "torch")
    ended = engines(*command, "--vae", vae, "--out", tmp_path / "set")
    assert (ended.code, "decoder: weights done in" in ended.err) == (0, True)
    shown = json.loads(engines("inspect", tmp_path / "set").out)
    assert shown["source"]["vae"]["file"] == str(vae)


def of(original: Original, *parts: str) -> dict[str, Tensor]:
    prefixes = tuple(PREFIX[part] for part in parts)
    return {name: tensor for name, tensor in original.tensors.items() if name.startswith(prefixes)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_single_file_with_averaged_weights_is_read_without_them(
    original: Original, tmp_path: Path, dtype: torch.dtype
) -> None:
    whole = {name: tensor.to(dtype) for name, tensor in of(original, "unet", "vae", "text_encoder").items()}
    averages = {f"model_ema.{name.replace('.', '')}": torch.zeros_like(whole[name]) for name in of(original, "unet")}
    averages |= {"model_ema.decay": torch.tensor(0.99), "model_ema.num_updates": torch.tensor(7)}
    model = save(whole | averages, tmp_path / "pruned-no.safetensors")
    options = {"tokenizer": str(original.tokenizer), "original_config": str(original.config)}
    found = find_weights(str(model), str(original.controlnet), **options)  # type: ignore[arg-type]
    expected = load_network("unet", find_weights(str(original.model), str(original.controlnet)), torch.float32)
    state = load_network("unet", found, torch.float32).state_dict()
    assert all(torch.equal(state[name], tensor.to(dtype).float()) for name, tensor in expected.state_dict().items())


def test_single_files_of_other_families_are_named(
    engines: Callable[..., Ended], original: Original, tmp_path: Path
) -> None:
    first = "model.diffusion_model.input_blocks.0.0.weight"
    model = of(original, "unet", "vae", "text_encoder")
    text = PREFIX["text_encoder"]
    without_text = {name: tensor for name, tensor in model.items() if not name.startswith(text)}
    one = torch.ones(1)
    files = {
        f"is an inpainting model ({first} takes 9 channels), which is not rendered here; {SD15}": model
        | {first: model[first].repeat(1, 3, 1, 1)[:, :9]},
        f"SD 2 (its text encoder is OpenCLIP's), which is not supported; {SD15}": without_text
        | {"cond_stage_model.model.ln_final.weight": one},
        f"SDXL, which is not supported; {SD15}": without_text | {"conditioner.embedders.0.transformer.x": one},
        f"a transformer such as SD 3 or Flux, which is not supported; {SD15}": {
            "double_blocks.0.img_attn.qkv.weight": one
        },
        "it is named with --lora, beside a --model": {"lora_unet_x.lora_down.weight": one},
        "it is named with --embedding, beside a --model": {"emb_params": one},
        "name the whole model, and this file with --vae": {"decoder.up.0.block.0.conv1.weight": one},
    }
    for i, (sentence, tensors) in enumerate(files.items()):
        path = save(tensors, tmp_path / f"{i}.safetensors")
        options = ("--tokenizer", original.tokenizer, "--original-config", original.config)
        refused(engines, sentence, tmp_path / "set", path, "--controlnet", original.controlnet, *options)


def test_a_lora_that_cannot_be_merged_is_refused_by_the_command(engines: Callable[..., Ended], tmp_path: Path) -> None:
    lora = save({"lora_unet_x.hada_w1_a": torch.ones(1)}, tmp_path / "style.safetensors")
    model = tiny_model() / "model"
    options = ("--controlnet", control(), "--lora", f"{lora}:0.5")
    refused(engines, f"error: {lora} is a LoHa: it has lora_unet_x.hada_w1_a", tmp_path / "set", model, *options)
    assert not (tmp_path / "set").exists()


def test_a_lora_for_another_family_names_itself(tmp_path: Path) -> None:
    name = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
    lora = save(
        {f"{name}.lora_down.weight": torch.ones(4, 2048), f"{name}.lora_up.weight": torch.ones(16, 4)},
        tmp_path / "xl.safetensors",
    )
    weights = find_weights(str(tiny_model() / "model"), control(), additions=AdditionNames(loras=(str(lora),)))
    with pytest.raises(
        ModelRefused, match=rf"{lora} was made for another model: {name}.lora_down.weight is \(4, 2048\)"
    ):
        load_networks(weights)
