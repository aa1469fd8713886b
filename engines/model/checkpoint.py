"""Original single-file checkpoints such as `control_sd15_canny.pth` with `cldm_v15.yaml`, as diffusers' networks.

diffusers' own functions rename the tensors. They do not check that every tensor is there and has the right shape; that
is done here. Nothing is downloaded.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.errors import ModelRefused
from engines.model import tensor_files
from engines.model.libraries import library

PREFIXES = {
    "text_encoder": "cond_stage_model.transformer.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "controlnet": "control_model.",
}
_CLIP_HEAD_WIDTH = 64
# The sizes in v1-inference.yaml and cldm_v15.yaml, for checkpoints that come without one.
_UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "attention_resolutions": [4, 2, 1],
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4, 4],
    "num_heads": 8,
    "transformer_depth": 1,
    "context_dim": 768,
}
_VAE = {"z_channels": 4, "in_channels": 3, "out_ch": 3, "ch": 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2}
SD15: dict[str, Any] = {
    "model": {
        "params": {
            "scale_factor": 0.18215,
            "unet_config": {"params": _UNET},
            "control_stage_config": {"params": {**_UNET, "hint_channels": 3}},
            "first_stage_config": {"params": {"ddconfig": _VAE}},
        }
    }
}


def load_part(part: str, path: Path, *, config: Path | None) -> Any:
    """One network of a single file, in the file's precision. `config`: its .yaml, None for SD1.5's sizes.

    Raises:
        ModelRefused: the file cannot be read safely, has no such part, or has other sizes.
    """
    tensors = read_tensors(path, part)
    original = SD15 if config is None else read_config(config)
    try:
        network, renamed = MAKERS[part](tensors, original)
    except (KeyError, TypeError, IndexError, AttributeError) as error:
        described = "SD1.5" if config is None else str(config)
        raise ModelRefused(f"{path} has a {part} that {described} does not describe ({error!r})") from error
    _check(path, part, network.state_dict(), renamed)
    network.load_state_dict(renamed, assign=True)
    return network


def read_tensors(path: Path, part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their names in the file.

    Raises:
        ModelRefused: the file is unreadable, holds more than tensors, or has no such part.
    """
    tensors = tensor_files.read_tensors(path, lambda name: name.startswith(PREFIXES[part]))
    if part == "controlnet" and not tensors:
        tensors = tensor_files.read_tensors(path)
        if "input_hint_block.0.weight" not in tensors:  # not a ControlNet that was saved by itself
            tensors = {}
    if not tensors:
        hint = "; name a ControlNet with --controlnet" if part == "controlnet" else ""
        raise ModelRefused(f"{path} holds no {part}: it has no tensors named {PREFIXES[part]}*{hint}")
    return tensors


def read_config(path: Path) -> dict[str, Any]:
    """Read an original .yaml. Only its sizes are used; the classes that it names are not loaded.

    Raises:
        ModelRefused: it is not yaml, or has no model.params.
    """
    yaml = library("yaml")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ModelRefused(f"{path} is not yaml: {error}") from error
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or "params" not in model:
        raise ModelRefused(f"{path} does not describe a model: it has no model.params")
    return {"model": model}


def _unet(tensors: Mapping[str, Tensor], original: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    config = _unet_config(original)
    with torch.device("meta"):
        network = library("diffusers").UNet2DConditionModel(**config)
    return network, _renaming().convert_ldm_unet_checkpoint(dict(tensors), config)


def _unet_config(original: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = _renaming().create_unet_diffusers_config_from_ldm(original, {})
    return config


def _controlnet(tensors: Mapping[str, Tensor], original: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """diffusers' own function for this configuration omits an argument that the U-Net's function needs."""
    params = original["model"]["params"]
    control = params["control_stage_config"]["params"]
    config = _unet_config({"model": {"params": {**params, "unet_config": {"params": {"out_channels": 4} | control}}}})
    network_class = library("diffusers").ControlNetModel
    known = inspect.signature(network_class.__init__).parameters
    config = {name: value for name, value in config.items() if name in known}
    with torch.device("meta"):
        network = network_class(**config, conditioning_channels=control["hint_channels"])
    renamed = _renaming().convert_controlnet_checkpoint(dict(tensors), config)
    return network, {name: tensor for name, tensor in renamed.items() if tensor is not None}


def _vae(tensors: Mapping[str, Tensor], original: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    config = _renaming().create_vae_diffusers_config_from_ldm(original, {})
    with torch.device("meta"):
        network = library("diffusers").AutoencoderKL(**config)
    return network, _renaming().convert_ldm_vae_checkpoint(dict(tensors), config)


def _text_encoder(tensors: Mapping[str, Tensor], _original: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """The .yaml does not describe the text encoder, so its sizes are read from its tensors."""
    transformers = library("transformers")
    named = {name.removeprefix(PREFIXES["text_encoder"]): tensor for name, tensor in tensors.items()}
    embeddings = named["text_model.embeddings.token_embedding.weight"]
    layers = {name.split(".")[3] for name in named if name.startswith("text_model.encoder.layers.")}
    config = transformers.CLIPTextConfig(
        vocab_size=embeddings.shape[0],
        hidden_size=embeddings.shape[1],
        intermediate_size=named["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
        max_position_embeddings=named["text_model.embeddings.position_embedding.weight"].shape[0],
        num_hidden_layers=len(layers),
        num_attention_heads=embeddings.shape[1] // _CLIP_HEAD_WIDTH,
        hidden_act="quick_gelu",
        attn_implementation="eager",
    )
    network = transformers.CLIPTextModel(config)
    wanted = network.state_dict().keys()
    renamed = {name: tensor for name, tensor in named.items() if not name.endswith("position_ids")}
    if not any(name.startswith("text_model.") for name in wanted):  # transformers 5 has one level less
        renamed = {name.removeprefix("text_model."): tensor for name, tensor in renamed.items()}
    return network, renamed


def _renaming() -> Any:
    return library("diffusers.loaders.single_file_utils")


# Part -> the function that gives its network (without values where that saves time) and its renamed tensors.
MAKERS = {"text_encoder": _text_encoder, "unet": _unet, "vae": _vae, "controlnet": _controlnet}


def _check(path: Path, part: str, expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    other = sorted(name for name in set(expected) & set(tensors) if expected[name].shape != tensors[name].shape)
    if other:
        sizes = f"{tuple(tensors[other[0]].shape)}, not {tuple(expected[other[0]].shape)}"
        raise ModelRefused(
            f"{path} has a {part} of other sizes: {other[0]} is {sizes}; the model's .yaml says them: --original-config"
        )
    for problem, names in (
        ("is missing", set(expected) - set(tensors)),
        ("has no place", set(tensors) - set(expected)),
    ):
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise ModelRefused(f"{path} cannot be read as SD1.5's {part}: {min(names)} {problem}{more}")
