"""`--vae`: the folder, the whole model's folder and the single files that people have, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.locate import Weights, find_weights
from engines.model.networks import load_network, load_networks
from engines.source import AdditionNames
from tests.engines.model.folders import changed, weights_in
from tests.engines.model.single_files import of
from tests.engines.original import CONFIG, Original, save


def weights_with(original: Original, vae: Path, model: Path | None = None) -> Weights:
    """The model's folder with another VAE; single files have the sizes of the .yaml."""
    config = str(original.config) if vae.is_file() else None
    additions = AdditionNames(vae=str(vae))
    return find_weights(
        str(model or original.model), str(original.controlnet), original_config=config, additions=additions
    )


def assert_vae(weights: Weights, expected: dict[str, Tensor]) -> None:
    state = load_network("vae", weights, torch.float32).state_dict()
    assert list(state) == list(expected)
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name


@pytest.fixture
def expected(original: Original) -> dict[str, Tensor]:
    weights = find_weights(str(original.model), str(original.controlnet))
    return dict(load_network("vae", weights, torch.float32).state_dict())


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt"])
@pytest.mark.parametrize("kind", ["bare", "whole checkpoint", "trained", "diffusers' names"])
def test_single_files_are_read(
    original: Original, expected: dict[str, Tensor], tmp_path: Path, kind: str, suffix: str
) -> None:
    tensors = {
        "bare": of(original, "vae", bare=True),
        "whole checkpoint": of(original, "vae", "unet"),
        "trained": of(original, "vae", bare=True) | {"loss.logvar": torch.ones(1), "model_ema.decay": torch.ones(1)},
        "diffusers' names": expected,
    }[kind]
    assert_vae(weights_with(original, save(tensors, tmp_path / f"vae-ft-mse{suffix}")), expected)


def test_a_folder_and_that_of_a_whole_model_are_read(
    original: Original, expected: dict[str, Tensor], tmp_path: Path
) -> None:
    assert_vae(weights_with(original, original.model / "vae"), expected)
    assert_vae(weights_with(original, original.model), expected)
    folder = changed(
        original,
        "vae",
        tmp_path,
        lambda tensors: tensors.update({"decoder.conv_out.bias": tensors["decoder.conv_out.bias"] + 1}),
    )
    other = expected | {"decoder.conv_out.bias": expected["decoder.conv_out.bias"] + 1}
    assert_vae(weights_with(original, folder), other)


def test_a_model_without_a_vae_takes_one(original: Original, expected: dict[str, Tensor], tmp_path: Path) -> None:
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / part).symlink_to(original.model / part)
    with pytest.raises(ModelRefused, match="is not in diffusers' layout: it has no vae; name one with --vae"):
        find_weights(str(tmp_path / "model"), str(original.controlnet))
    assert_vae(weights_with(original, original.model / "vae", tmp_path / "model"), expected)


def test_a_single_file_without_a_vae_takes_one(original: Original, expected: dict[str, Tensor], tmp_path: Path) -> None:
    model = save(of(original, "unet", "text_encoder"), tmp_path / "model.safetensors")
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(CONFIG))
    named: dict[str, Any] = {"tokenizer": str(original.tokenizer)}
    with pytest.raises(
        ModelRefused, match=r"holds no vae: it has no tensors named first_stage_model\.\*; name one with"
    ):
        load_network("vae", find_weights(str(model), str(original.controlnet), **named), torch.float32)
    additions = AdditionNames(vae=str(original.model / "vae"))
    assert_vae(find_weights(str(model), str(original.controlnet), **named, additions=additions), expected)


@pytest.mark.parametrize(
    ("tensors", "sentence"),
    [
        ({"lora_unet_x.lora_down.weight": torch.ones(1)}, "holds no vae: .*; it looks like a LoRA"),
        ({"decoder.conv_in.weight": torch.ones(1)}, "vae"),
        ({"encoder.conv_in.weight": torch.ones(1)}, "holds no vae: "),
    ],
)
def test_a_file_that_is_no_vae_is_refused(
    original: Original, tmp_path: Path, tensors: dict[str, Tensor], sentence: str
) -> None:
    path = save(tensors, tmp_path / "file.safetensors")
    with pytest.raises(ModelRefused, match=sentence) as refused:
        load_network("vae", weights_with(original, path), torch.float32)
    assert str(path) in str(refused.value)


def test_a_folder_that_is_no_vae_is_refused(original: Original, tmp_path: Path) -> None:
    with pytest.raises(ModelRefused, match=r"holds no VAE .no config.json, and no vae folder with one.: --vae takes"):
        weights_with(original, tmp_path)
    with pytest.raises(ModelRefused, match="describes a network of another class: UNet2DConditionModel"):
        load_network("vae", weights_with(original, original.model / "unet"), torch.float32)


def test_a_vae_of_another_scale_is_refused(original: Original, tmp_path: Path) -> None:
    folder = changed(original, "vae", tmp_path, lambda _: None)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"scaling_factor": 0.13025}))
    with pytest.raises(ModelRefused, match=r"its scaling_factor is 0.13025, that of the model's own VAE is 0.18215"):
        load_networks(weights_with(original, folder))


def scaled(original: Original, folder: Path, factor: float) -> Path:
    """The VAE's folder with another scaling factor."""
    copy = changed(original, "vae", folder, lambda _: None)
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"scaling_factor": factor}))
    return copy


def of_single_file(original: Original, folder: Path, vae: Path, beside: dict[str, Tensor] | None = None) -> Weights:
    """A single file's model with another VAE."""
    model = save(of(original, "unet", "vae", "text_encoder") | (beside or {}), folder / "model.safetensors")
    return find_weights(
        str(model),
        str(original.controlnet),
        tokenizer=str(original.tokenizer),
        original_config=str(original.config),
        additions=AdditionNames(vae=str(vae)),
    )


def test_a_vae_of_another_scale_than_a_single_files_is_refused(original: Original, tmp_path: Path) -> None:
    other = scaled(original, tmp_path, 0.13025)
    with pytest.raises(ModelRefused, match=r"its scaling_factor is 0.13025, that of the model's own VAE is 0.18215; "):
        load_networks(of_single_file(original, tmp_path, other))
    weights = of_single_file(original, tmp_path, original.model / "vae", {"scale_factor": torch.tensor(0.3)})
    with pytest.raises(
        ModelRefused, match=r"model.safetensors has the scale_factor \[0.3.*\], and its description has"
    ):
        load_networks(weights)
    assert load_networks(of_single_file(original, tmp_path, original.model)).vae.config.scaling_factor == 0.18215


def test_a_vae_of_another_scale_than_sd15s_is_refused_for_a_model_without_one(
    original: Original, tmp_path: Path
) -> None:
    (tmp_path / "model").mkdir()
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        (tmp_path / "model" / part).symlink_to(original.model / part)
    other = scaled(original, tmp_path, 0.13025)
    with pytest.raises(ModelRefused, match=r"is 0.13025, that of Stable Diffusion 1.5's VAE is 0.18215; --vae takes"):
        load_networks(weights_with(original, other, tmp_path / "model"))


def test_a_single_files_vae_is_refused_for_a_model_of_another_scale(original: Original, tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    scaled(original, model, 0.3)
    for part in ("unet", "text_encoder", "tokenizer", "scheduler"):
        (model / part).symlink_to(original.model / part)
    vae = save(of(original, "vae", bare=True), tmp_path / "vae.safetensors")
    with pytest.raises(ModelRefused, match=r"its scaling_factor is 0.18215, that of the model's own VAE is 0.3; "):
        load_networks(weights_with(original, vae, model))


def test_the_vae_of_an_sdxl_checkpoint_is_refused(original: Original, tmp_path: Path) -> None:
    name = "conditioner.embedders.0.transformer.text_model.final_layer_norm.bias"
    path = save(of(original, "vae") | {name: torch.ones(1)}, tmp_path / "xl.safetensors")
    with pytest.raises(ModelRefused, match=rf"xl.safetensors is a checkpoint of SDXL \(it has {name}\), whose VAE has"):
        load_networks(weights_with(original, path))


def test_only_a_vae_of_other_sizes_has_other_compiled_code(original: Original, tmp_path: Path) -> None:
    plain = find_weights(str(original.model), str(original.controlnet))
    folder = changed(
        original,
        "vae",
        tmp_path,
        lambda tensors: tensors.update({"decoder.conv_out.bias": tensors["decoder.conv_out.bias"] + 1}),
    )
    config = json.loads((folder / "config.json").read_text()) | {"_name_or_path": "somebody/vae", "sample_size": 256}
    (folder / "config.json").write_text(json.dumps(config))
    other = weights_with(original, folder)
    assert weights_in(folder).is_file()
    assert other.digest != plain.digest
    for component in ("clip", "hint", "controlnet", "unet", "decoder"):
        assert other.graph_digest(component) == plain.graph_digest(component) == plain.config_digest
        assert (other.digest_of(component) == plain.digest) is (component != "decoder")
    (folder / "config.json").write_text(json.dumps(config | {"layers_per_block": 1}))
    wider = weights_with(original, folder)
    assert wider.graph_digest("decoder") != plain.config_digest
    assert wider.graph_digest("unet") == plain.config_digest
