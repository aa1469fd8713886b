"""Networks in diffusers' layout: a folder with config.json and weights. `from_pretrained` is not used.

It leaves a tensor that the files lack at a random value, and says so in a log line alone. Here every tensor comes from
the files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.config_rules import check_config
from engines.model.fill import Changing, Contents, Named, fill, unchanged
from engines.model.json_file import read_json
from engines.model.libraries import library
from engines.model.tensor_files import read_tensors
from engines.model.weight_files import weight_files

CONFIG = "config.json"
CLASSES = {
    "unet": "UNet2DConditionModel",
    "vae": "AutoencoderKL",
    "controlnet": "ControlNetModel",
    "text_encoder": "CLIPTextModel",
}
# Attention of a VAE as diffusers wrote it before version 0.12.
_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_OLD_NAME = re.compile(r"(.+\.attentions\.\d+)\.(query|key|value|proj_attn)\.(weight|bias)")


def load_folder(part: str, path: Path, dtype: torch.dtype, changing: Changing = unchanged) -> Any:
    """One network of a folder, in `dtype`; `changing` gives the changes to its values.

    Raises:
        ModelRefused: its configuration or its weights are missing, damaged, or not those of SD1.5's network.
    """
    network = described_network(part, path / CONFIG, read_folder_config(part, path))
    try:
        tensors = _read(weight_files(part, path))
    except ModelRefused as error:
        raise ModelRefused(f"{path} cannot be read as SD1.5's {part}: {error}") from error
    named, surplus = _renamed(network.state_dict(), tensors)
    return fill(network, Contents(part, path, named, surplus, f"its {CONFIG} says so", strict=False), dtype, changing)


def read_folder_config(part: str, path: Path) -> dict[str, Any]:
    """A network's configuration, as its file has it, held against the rules for its fields.

    Raises:
        ModelRefused: it is missing, is not JSON, or describes another network.
    """
    file = path / CONFIG
    config = read_json(file, missing=f"{path} has no {CONFIG}, so the sizes of its {part} are not known")
    name = config.get("_class_name")
    if isinstance(name, str) and name.removeprefix("Flax") != CLASSES[part]:
        raise ModelRefused(f"{file} describes a network of another class: {name}, not {CLASSES[part]}")
    check_config(part, file, config)
    return config


def described_network(part: str, file: Path, config: Mapping[str, Any]) -> Any:
    """The network that a configuration file describes, as empty_network gives it.

    Raises:
        ModelRefused: there is no such network.
    """
    try:
        return empty_network(part, config)
    except Exception as error:  # the libraries' constructors check little: anything may come of a wrong value
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ModelRefused(f"{file} does not describe a {part}: {reason}") from error


def empty_network(part: str, config: Mapping[str, Any]) -> Any:
    """A network of a configuration, on torch's meta device: names and sizes without values. Raises anything."""
    # Drawing random weights takes half of a small network's time, on the meta device, too.
    with torch.device("meta"), library("diffusers.models.modeling_utils").no_init_weights():
        if part == "text_encoder":
            return _text_encoder(config)
        return getattr(library("diffusers"), CLASSES[part]).from_config(dict(config))


def _text_encoder(config: Mapping[str, Any]) -> Any:
    """Torch exports a causal scaled_dot_product_attention with a float32 mask, whatever the dtype. TensorRT's strongly
    typed networks reject such a graph in fp16. Eager attention has no such mask, and costs nothing for 77 tokens.
    """
    transformers = library("transformers")
    fields = config["text_config"] if config.get("model_type") == "clip" else config
    described = transformers.CLIPTextConfig.from_dict(dict(fields), attn_implementation="eager")
    return transformers.CLIPTextModel(described)


def _read(files: list[Path]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for file in files:
        for name, tensor in read_tensors(file).items():
            if name in tensors:
                raise ModelRefused(f"{name} is in {file.name} and in another file of the same index")
            tensors[name] = tensor
    return tensors


def _renamed(
    expected: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Named], dict[str, Tensor]]:
    """Tensors by the network's names, and those that it has no place for."""
    named: dict[str, Named] = {}
    surplus: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own = own_name(name, expected)
        if own in expected and (own == name or own not in tensors):
            named[own] = Named(name, tensor)
        else:
            surplus[name] = tensor
    return named, surplus


def own_name(name: str, expected: Mapping[str, Tensor]) -> str:
    """The name that the installed libraries have for a tensor of a file that older or newer ones wrote."""
    if name in expected:
        return name
    old = _OLD_NAME.fullmatch(name)
    if old is not None:
        return f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}"
    bare = name.removeprefix("text_model.")  # transformers 5 has one level less than 4
    return bare if bare in expected else f"text_model.{bare}"
