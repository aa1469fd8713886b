"""A component's tensors and settings in one safetensors file, read without diffusers or torch modules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SETTINGS = "settings"  # the safetensors metadata entry
Settings = Mapping[str, Mapping[str, Any]]  # by the module's name
# Settings that decide the arithmetic but are not tensors, by the class of diffusers' and transformers' modules.
_SETTINGS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "GroupNorm": lambda norm: {"groups": norm.num_groups, "eps": norm.eps},
    "LayerNorm": lambda norm: {"groups": 1, "eps": norm.eps},
    "Attention": lambda attention: {"heads": attention.heads},
    "CLIPAttention": lambda attention: {"heads": attention.num_heads},
    "CLIPMLP": lambda mlp: {"activation": mlp.config.hidden_act},
}


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's own parameters and buffers by name; nothing is copied."""
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def settings_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Module name -> settings, for the modules inside that have any."""
    kinds = ((name, part, _SETTINGS.get(type(part).__name__)) for name, part in module.named_modules())
    return {name: settings(part) for name, part, settings in kinds if settings is not None}


def save_constants(module: nn.Module, path: Path) -> Path:
    """Write a module's tensors and settings into one file; returns it."""
    return write_constants(tensors_of(module), settings_of(module), path)


def write_constants(tensors: Mapping[str, Tensor], settings: Settings, path: Path) -> Path:
    """Write tensors and settings into one file, which `load_constants` reads; returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cloned: safetensors takes no tensors that share memory, as tied weights do.
    copies = {name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}
    save_file(copies, path, metadata={SETTINGS: json.dumps(settings)})
    return path


def load_constants(path: Path, device: torch.device) -> tuple[dict[str, Tensor], Settings]:
    """The tensors of `write_constants`, on a device, and the settings."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        settings = json.loads((file.metadata() or {}).get(SETTINGS, "{}"))
        return {name: file.get_tensor(name) for name in file.keys()}, settings  # noqa: SIM118
