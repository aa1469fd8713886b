"""What is read as a model, what is refused, and the sizes that are found in it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel

from engines.engine_set import load_engine_set
from engines.errors import ModelRefused
from engines.model import networks
from engines.model.locate import find_weights
from engines.model.networks import Networks, check_networks, geometry_of, load_networks
from engines.model.tokenizer import SpecialTokens
from engines.spec import COMPONENTS, Geometry
from tests.engines.sets import copy_of_model
from tests.models import tiny_engine_set, tiny_model

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
UNET = {"cross_attention_dim": 768, "attention_head_dim": 8}


def on_paper(unet: dict[str, Any] | None = None, vae: dict[str, Any] | None = None, text: int = 768) -> Networks:
    """SD1.5's networks at their full size, without weights."""
    with torch.device("meta"):
        network = UNet2DConditionModel(**UNET | (unet or {}))
        return Networks(
            CLIPTextModel(CLIPTextConfig(hidden_size=text, num_hidden_layers=12, num_attention_heads=text // 64)),
            network,
            AutoencoderKL(**VAE | (vae or {})),
            ControlNetModel.from_unet(network, load_weights_from_unet=False),
        )


@pytest.fixture(scope="module")
def sd15() -> Networks:
    return on_paper()


def test_the_geometry_of_sd15_is_the_default(sd15: Networks) -> None:
    check_networks(sd15)
    assert geometry_of(sd15, SpecialTokens(49406, 49407, 49407)) == Geometry()


def test_the_tiny_models_geometry_is_in_its_set() -> None:
    with load_engine_set(tiny_engine_set()) as engines:
        assert engines.geometry.control_channels == (16,) * 4 + (32,) * 9
        assert engines.geometry.context_width == 32
        assert engines.geometry.scaling_factor == 0.18215


def test_a_model_of_sd2s_width_is_refused_beside_sd15s_text_encoder() -> None:
    with pytest.raises(ModelRefused, match="differ in width: 768, 1024 and 1024; they belong to different"):
        check_networks(on_paper(unet={"cross_attention_dim": 1024}))


def test_an_inpainting_unet_is_refused() -> None:
    with pytest.raises(ModelRefused, match="the U-Net takes 9 channels, the VAE gives 4"):
        check_networks(on_paper(unet={"in_channels": 9}))


def test_a_shallower_unet_is_refused() -> None:
    with pytest.raises(ModelRefused, match=r"only SD1.5's graph is built here: 13 controls"):
        check_networks(on_paper(unet={"layers_per_block": 1}))


def test_a_controlnet_of_other_widths_is_refused(sd15: Networks) -> None:
    narrow = on_paper(unet={"block_out_channels": (32, 64, 128, 128)})
    with pytest.raises(ModelRefused, match="the ControlNet was made for a U-Net of other widths"):
        check_networks(Networks(sd15.text_encoder, sd15.unet, sd15.vae, narrow.controlnet))


@pytest.mark.parametrize("change", [{"global_pool_conditions": True}, {"controlnet_conditioning_channel_order": "bgr"}])
def test_a_controlnet_with_another_kind_of_hint_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    weights = copy_of_model(tmp_path)
    config = weights / "controlnet" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | change))
    with pytest.raises(ModelRefused, match="pooled conditions or BGR hints are not supported"):
        load_networks(find_weights(str(weights / "model"), str(weights / "controlnet")))


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    weights = copy_of_model(tmp_path)
    (path,) = (weights / "controlnet").glob("*.safetensors")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ModelRefused, match=r"controlnet cannot be read as SD1.5's controlnet"):
        load_networks(find_weights(str(weights / "model"), str(weights / "controlnet")))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    weights = copy_of_model(tmp_path)
    for path in (weights / "model" / "text_encoder").glob("*.safetensors"):
        path.unlink()
    with pytest.raises(ModelRefused, match=r"cannot be read as SD1.5's text_encoder"):
        load_networks(find_weights(str(weights / "model"), str(weights / "controlnet")))


def test_the_models_own_controlnet_folder_is_used_when_none_is_named(tmp_path: Path) -> None:
    weights = copy_of_model(tmp_path)
    (weights / "controlnet").rename(weights / "model" / "controlnet")
    found = find_weights(str(weights / "model"))
    assert found.controlnet == weights / "model" / "controlnet"
    named = find_weights(str(weights / "model"), str(weights / "model" / "controlnet"))
    assert named.digest == found.digest


def test_the_digest_of_weights_does_not_depend_on_where_they_lie(tmp_path: Path) -> None:
    weights = copy_of_model(tmp_path)
    before = find_weights(str(weights / "model"), str(weights / "controlnet")).digest
    moved = weights.rename(tmp_path / "moved")
    assert find_weights(str(moved / "model"), str(moved / "controlnet")).digest == before
    (moved / "model" / "vae" / "README.md").write_text("not a weight")
    assert find_weights(str(moved / "model"), str(moved / "controlnet")).digest == before


def test_hint_and_controlnet_are_read_once_and_belong_to_whoever_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_model()
    weights = find_weights(str(folder / "model"), str(folder / "controlnet"))
    parts: list[str] = []
    read = networks.load_network

    def counted(part: str, *arguments: Any) -> Any:
        parts.append(part)
        return read(part, *arguments)

    monkeypatch.setattr(networks, "load_network", counted)
    reader = networks.ComponentReader(weights, torch.float32)
    first = {name: reader.read(name) for name in COMPONENTS}
    assert sorted(parts) == ["controlnet", "text_encoder", "unet", "vae"]
    again = reader.read("controlnet")
    assert again is not first["controlnet"]
    tensors = zip(again.state_dict().values(), first["controlnet"].state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in tensors)
