"""A tiny model in the original layout of `control_sd15_canny.pth`, and the same one in diffusers' layout.

The names are written here the other way round from diffusers' conversion, by hand: a second witness.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from tests.models import tiny_model

_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 2, 2],
    "num_heads": 4,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "context_dim": 64,
    "legacy": False,
}
_VAE = {"z_channels": 4, "in_channels": 3, "out_ch": 3, "ch": 32, "ch_mult": [1, 1, 2, 2], "num_res_blocks": 2}
# As cldm_v15.yaml is built.
CONFIG: dict[str, Any] = {
    "model": {
        "target": "cldm.cldm.ControlLDM",
        "params": {
            "linear_start": 0.00085,
            "linear_end": 0.012,
            "timesteps": 1000,
            "scale_factor": 0.18215,
            "control_stage_config": {
                "target": "cldm.cldm.ControlNet",
                "params": {key: value for key, value in _UNET.items() if key != "out_channels"} | {"hint_channels": 3},
            },
            "unet_config": {"target": "cldm.cldm.ControlledUnetModel", "params": _UNET},
            "first_stage_config": {"params": {"embed_dim": 4, "ddconfig": _VAE}},
            "cond_stage_config": {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder"},
        },
    }
}
PREFIX = {
    "unet": "model.diffusion_model.",
    "controlnet": "control_model.",
    "vae": "first_stage_model.",
    "text_encoder": "cond_stage_model.transformer.",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


@dataclass(frozen=True)
class Original:
    """Where things lie: `model` and `controlnet` in diffusers' layout, `config` for the tensors in the original one."""

    model: Path
    controlnet: Path
    config: Path
    tensors: dict[str, Tensor]

    @property
    def tokenizer(self) -> Path:
        return self.model / "tokenizer"


def make_original(folder: Path) -> Original:
    """Both layouts of one seeded random model."""
    torch.manual_seed(0)
    parts = _networks()
    model = folder / "model"
    for part in ("unet", "vae", "text_encoder"):
        parts[part].save_pretrained(model / part)
    for part in ("tokenizer", "scheduler"):
        shutil.copytree(tiny_model() / "model" / part, model / part)
    shutil.copy(tiny_model() / "model" / "model_index.json", model)  # diffusers' pipeline begins with it
    parts["controlnet"].save_pretrained(folder / "controlnet")
    (folder / "cldm.yaml").write_text(yaml.safe_dump(CONFIG))
    tensors: dict[str, Tensor] = {"betas": torch.zeros(1000)}  # the original has the schedule in it
    for part, network in parts.items():
        tensors |= {PREFIX[part] + name: tensor for name, tensor in original_state(part, network).items()}
    return Original(model, folder / "controlnet", folder / "cldm.yaml", tensors)


def save(tensors: dict[str, Tensor], path: Path) -> Path:
    """As the file's ending says; a pickle has its tensors under state_dict."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    else:
        torch.save({"state_dict": tensors, "global_step": 7}, path)
    return path


def _networks() -> dict[str, Any]:
    unet = UNet2DConditionModel(
        block_out_channels=(32, 64, 64, 64), cross_attention_dim=64, attention_head_dim=4, sample_size=64
    )
    controlnet = ControlNetModel.from_unet(unet)
    for parameter in controlnet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)  # zero convolutions hide what is in the wrong place
    vocabulary = 914
    text = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=1,
        hidden_act="quick_gelu",
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64, 64),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        sample_size=512,
    )
    return {"unet": unet, "controlnet": controlnet, "vae": vae, "text_encoder": CLIPTextModel(text)}


def original_state(part: str, network: nn.Module) -> dict[str, Tensor]:
    """A network's tensors under their original names, without the part's prefix."""
    rename = {"unet": _unet_name, "controlnet": _control_name, "vae": _vae_name, "text_encoder": _text_name}[part]
    state = {rename(name): tensor.clone() for name, tensor in network.state_dict().items()}
    if part == "vae":  # attention was made of 1x1 convolutions
        attention = re.compile(r"attn_1\.(q|k|v|proj_out)\.weight")
        state = {name: t[:, :, None, None] if attention.search(name) else t for name, t in state.items()}
    if part == "text_encoder":
        state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    return state


def _text_name(name: str) -> str:
    return name if name.startswith("text_model.") else f"text_model.{name}"


def _unet_name(name: str) -> str:
    for new, old in (
        ("time_embedding.linear_1", "time_embed.0"),
        ("time_embedding.linear_2", "time_embed.2"),
        ("conv_in", "input_blocks.0.0"),
        ("conv_norm_out", "out.0"),
        ("conv_out", "out.2"),
        ("mid_block.resnets.0", "middle_block.0"),
        ("mid_block.attentions.0", "middle_block.1"),
        ("mid_block.resnets.1", "middle_block.2"),
    ):
        if name.startswith(new + "."):
            found = old + name.removeprefix(new)
            return _resnet_name(found) if "resnets" in new else found
    way, block, kind, layer, rest = re.fullmatch(
        r"(down|up)_blocks\.(\d)\.(resnets|attentions|downsamplers|upsamplers)\.(\d)\.(.+)", name
    ).groups()  # type: ignore[union-attr]
    first = 3 * int(block) + int(layer)
    if kind == "downsamplers":
        return f"input_blocks.{3 * int(block) + 3}.0.op{rest.removeprefix('conv')}"
    if kind == "upsamplers":
        return f"output_blocks.{3 * int(block) + 2}.{1 if block == '0' else 2}.{rest}"
    place = f"input_blocks.{first + 1}" if way == "down" else f"output_blocks.{first}"
    return _resnet_name(f"{place}.0.{rest}") if kind == "resnets" else f"{place}.1.{rest}"


def _resnet_name(name: str) -> str:
    for new, old in _RESNET.items():
        name = re.sub(rf"\.{new}\.", f".{old}.", name)
    return name


def _control_name(name: str) -> str:
    for pattern, old in (
        (r"controlnet_down_blocks\.(\d+)", r"zero_convs.\1.0"),
        (r"controlnet_mid_block", r"middle_block_out.0"),
        (r"controlnet_cond_embedding\.conv_in", r"input_hint_block.0"),
        (r"controlnet_cond_embedding\.conv_out", r"input_hint_block.14"),
    ):
        if re.match(pattern + r"\.", name):
            return re.sub(pattern, old, name)
    block = re.fullmatch(r"controlnet_cond_embedding\.blocks\.(\d)\.(.+)", name)
    if block is not None:
        return f"input_hint_block.{2 * int(block[1]) + 2}.{block[2]}"
    return _unet_name(name)


def _vae_name(name: str) -> str:
    name = name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda match: f"mid.block_{int(match[1]) + 1}", name)
    if "mid_block.attentions.0." in name:
        for new, old in _VAE_ATTENTION.items():
            name = name.replace(f".{new}.", f".{old}.")
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
    name = re.sub(r"down_blocks\.(\d)\.resnets", r"down.\1.block", name)
    name = re.sub(r"down_blocks\.(\d)\.downsamplers\.0", r"down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets", lambda match: f"up.{3 - int(match[1])}.block", name)
    return re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda match: f"up.{3 - int(match[1])}.upsample", name)
