"""The original layout, as in `control_sd15_canny.pth` with `cldm_v15.yaml`: its sizes, and its tensors renamed.

diffusers' own functions rename the tensors. They do not check that every tensor is there and has the right shape; that
is done in fill.py.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from engines.errors import ModelRefused
from engines.model.config_rules import check_original
from engines.model.folder import empty_network, own_name
from engines.model.libraries import library

PREFIXES = {
    "text_encoder": "cond_stage_model.transformer.",
    "unet": "model.diffusion_model.",
    "vae": "first_stage_model.",
    "controlnet": "control_model.",
}
_OWN_CONTROLNET = "controlnet_"  # how the names begin that diffusers added
_OWN_VAE = ("decoder.up_blocks.", "decoder.mid_block.")
UNET = "diffusers' unet"  # beside "model": a U-Net's configuration that is not a .yaml
_CLIP_HEAD_WIDTH = 64
# The text encoder of every SD1.5 is 768 wide and has 12 layers; only another width may have another number of them.
_CLIP_WIDTH, _CLIP_LAYERS = 768, 12
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
_NOT_IN_A_CONTROLNET = ("out_channels", "transformer_depth")
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
# A number with an exponent, with or without a point.
_EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$")


def read_config(path: Path) -> dict[str, Any]:
    """Read an original .yaml. The classes that it names are not loaded; rules say what is used of it.

    Raises:
        ModelRefused: it is not yaml, has no model.params, or has a value that is not built here.
    """
    config = read_yaml(path)
    check_original(path, config)
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """The same without a look at its values.

    Raises:
        ModelRefused: it is not yaml, or has no model.params.
    """
    yaml = library("yaml")
    try:
        config = yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        raise ModelRefused(f"{path} is not yaml: {error}") from error
    model = config.get("model") if isinstance(config, dict) else None
    if not isinstance(model, dict) or "params" not in model:
        raise ModelRefused(f"{path} does not describe a model: it has no model.params")
    return {"model": model}


def absent_sizes(part: str, original: Mapping[str, Any]) -> str | None:
    """The first size of a network that a .yaml does not name, such as 'model.params.unet_config.params.num_heads'."""
    params = original["model"]["params"]
    network = "control_stage_config" if part == "controlnet" and "control_stage_config" in params else "unet_config"
    vae = "first_stage_config.params.ddconfig"
    names = [f"{vae}.{name}" for name in _VAE]
    if part != "vae":  # diffusers' function for the U-Net reads the VAE's levels too
        names = [f"{network}.params.{name}" for name in _UNET if name not in _NOT_IN_A_CONTROLNET] + names
    return next((f"model.params.{name}" for name in names if not _named(params, name)), None)


def _named(params: Any, name: str) -> bool:
    for word in name.split("."):
        if not isinstance(params, dict) or params.get(word) is None:
            return False
        params = params[word]
    return True


def _loader() -> Any:
    """PyYAML reads 1e-4 as a text; the original's reader, and YAML 1.2, read it as a number."""
    loader: Any = type("Loader", (library("yaml").SafeLoader,), {})
    loader.add_implicit_resolver("tag:yaml.org,2002:float", _EXPONENT, list("-+0123456789."))
    return loader


def _unet(tensors: Mapping[str, Tensor], original: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    config = _unet_config(original)
    return empty_network("unet", config), _given(_renaming().convert_ldm_unet_checkpoint(dict(tensors), config))


def _unet_config(original: Mapping[str, Any]) -> dict[str, Any]:
    config: dict[str, Any] = _renaming().create_unet_diffusers_config_from_ldm(original, {})
    return config


def _controlnet(tensors: Mapping[str, Tensor], original: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """A .yaml without a ControlNet, such as v1-inference.yaml, says its sizes by the U-Net, of which it copies half."""
    params = original["model"]["params"]
    control = params["control_stage_config" if "control_stage_config" in params else "unet_config"]["params"]
    if (config := original.get(UNET)) is None:
        # diffusers' own function for this configuration omits an argument that the U-Net's function needs.
        config = _unet_config(
            {"model": {"params": {**params, "unet_config": {"params": {"out_channels": 4} | control}}}}
        )
    known = inspect.signature(library("diffusers").ControlNetModel.__init__).parameters
    config = {name: value for name, value in config.items() if name in known}
    config["conditioning_channels"] = control.get("hint_channels", 3)
    if any(name.startswith(_OWN_CONTROLNET) for name in tensors):
        config["conditioning_embedding_out_channels"] = _hint_widths(tensors)
        return empty_network("controlnet", config), dict(tensors)
    network = empty_network("controlnet", config)
    prefix = PREFIXES["controlnet"]
    prefixed = {prefix + name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return network, _given(_renaming().convert_controlnet_checkpoint(prefixed, dict(network.config)))


def _hint_widths(tensors: Mapping[str, Tensor]) -> list[int]:
    """A ControlNet's widths, by diffusers' names. The U-Net does not say them; every second layer changes the width."""
    hint = "controlnet_cond_embedding"
    blocks = [int(match[1]) for name in tensors if (match := re.match(rf"{hint}\.blocks\.(\d+)\.", name))]
    layers = [f"{hint}.conv_in", *(f"{hint}.blocks.{i}" for i in range(1, max(blocks, default=0) + 1, 2))]
    return [tensors[f"{layer}.bias" if f"{layer}.bias" in tensors else f"{layer}.weight"].shape[0] for layer in layers]


def _given(renamed: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
    """Without the names that diffusers' functions wrote for tensors that are not there."""
    return {name: tensor for name, tensor in renamed.items() if tensor is not None}


def _vae(tensors: Mapping[str, Tensor], original: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    config = _renaming().create_vae_diffusers_config_from_ldm(original, {})
    if any(name.startswith(_OWN_VAE) for name in tensors):
        return _own_vae(config, tensors)
    return empty_network("vae", config), _given(_renaming().convert_ldm_vae_checkpoint(dict(tensors), config))


def _own_vae(config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> tuple[Any, dict[str, Tensor]]:
    """A VAE with diffusers' names."""
    network = empty_network("vae", config)
    expected = network.state_dict()
    return network, {own_name(name, expected): tensor for name, tensor in tensors.items()}


def _text_encoder(tensors: Mapping[str, Tensor], _original: Mapping[str, Any]) -> tuple[Any, dict[str, Tensor]]:
    """The .yaml does not describe the text encoder, so its sizes are read from its tensors.

    Merges from before transformers had the level `text_model.` lack it in their names.
    """
    named = {name.removeprefix(PREFIXES["text_encoder"]): tensor for name, tensor in tensors.items()}
    named = {"text_model." + name.removeprefix("text_model."): tensor for name, tensor in named.items()}
    embeddings = named["text_model.embeddings.token_embedding.weight"]
    vocabulary, width = embeddings.shape
    layers = {int(name.split(".")[3]) for name in named if name.startswith("text_model.encoder.layers.")}
    network = empty_network(
        "text_encoder",
        {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": named["text_model.encoder.layers.0.mlp.fc1.weight"].shape[0],
            "max_position_embeddings": named["text_model.embeddings.position_embedding.weight"].shape[0],
            "num_hidden_layers": _CLIP_LAYERS if width == _CLIP_WIDTH else max(layers) + 1,
            "num_attention_heads": width // _CLIP_HEAD_WIDTH,
            "hidden_act": "quick_gelu",
        },
    )
    expected = network.state_dict()
    renamed = {own_name(name, expected): tensor for name, tensor in named.items()}
    return network, {name: tensor for name, tensor in renamed.items() if name in expected}


def _renaming() -> Any:
    return library("diffusers.loaders.single_file_utils")


# Part -> the function that gives its network (without values where that saves time) and its renamed tensors.
MAKERS = {"text_encoder": _text_encoder, "unet": _unet, "vae": _vae, "controlnet": _controlnet}
