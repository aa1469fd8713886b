"""A component's weights by name, as the networks here read them: no diffusers, no torch modules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

SETTINGS = "settings"  # the safetensors metadata entry
# What is no tensor in diffusers' and transformers' modules, by their class, but decides the arithmetic.
_SETTINGS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "GroupNorm": lambda norm: {"groups": norm.num_groups, "eps": norm.eps},
    "LayerNorm": lambda norm: {"groups": 1, "eps": norm.eps},
    "Attention": lambda attention: {"heads": attention.heads},
    "CLIPAttention": lambda attention: {"heads": attention.num_heads},
    "CLIPMLP": lambda mlp: {"activation": mlp.config.hidden_act},
}


class Norm(NamedTuple):
    """A group or layer norm: float32 [C] each, groups (1 for a layer norm), and what is added to the variance."""

    gamma: Tensor
    beta: Tensor
    groups: int
    eps: float


@dataclass(frozen=True)
class Parameters:
    """Tensors whose names begin with `prefix`, on one device, in one dtype."""

    tensors: Mapping[str, Tensor]
    settings: Mapping[str, Mapping[str, Any]]
    prefix: str = ""

    def at(self, name: str | int) -> Parameters:
        """What stands below one name."""
        return replace(self, prefix=f"{self.prefix}{name}.")

    def __contains__(self, name: str) -> bool:
        full = self.prefix + name
        return full in self.tensors or any(key.startswith(f"{full}.") for key in self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def setting(self, name: str) -> Any:
        """One setting of the module that stands here."""
        return self.settings[self.prefix.rstrip(".")][name]

    def count(self, name: str) -> int:
        """How many are numbered below `name`."""
        found = 0
        while f"{name}.{found}" in self:
            found += 1
        return found

    @property
    def weight(self) -> Tensor:
        """The weight of the module that stands here."""
        return self["weight"]

    @property
    def bias(self) -> Tensor:
        """Its bias in float32."""
        return self["bias"].float()

    @property
    def matrix(self) -> Tensor:
        """The weight of a linear layer or of a 1x1 convolution, [in, out]: what follows x in `x @ matrix`."""
        return self.weight.reshape(self.weight.shape[0], -1).t()

    @property
    def linear(self) -> tuple[Tensor, Tensor]:
        """Weight [out, in] and bias [out], as torch's `linear` takes them."""
        return self.weight, self["bias"]

    @property
    def norm(self) -> Norm:
        """The group or layer norm that stands here."""
        settings = self.settings[self.prefix.rstrip(".")]
        return Norm(self.weight.float(), self.bias, settings["groups"], settings["eps"])


def parameters_of(module: nn.Module) -> Parameters:
    """A live module's own tensors: nothing is copied."""
    return Parameters({**dict(module.named_parameters()), **dict(module.named_buffers())}, settings_of(module))


def settings_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    """Module name -> settings, of the kinds of module that have any."""
    kinds = ((name, part, _SETTINGS.get(type(part).__name__)) for name, part in module.named_modules())
    return {name: settings(part) for name, part, settings in kinds if settings is not None}


def save_parameters(module: nn.Module, path: Path) -> Path:
    """Write a module's tensors and settings into one safetensors file."""
    parameters = parameters_of(module)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Cloned: safetensors takes no tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in parameters.tensors.items()}
    save_file(tensors, path, metadata={SETTINGS: json.dumps(parameters.settings)})
    return path


def load_parameters(path: Path, device: torch.device) -> Parameters:
    """The way back, onto a device."""
    with safe_open(path, framework="pt", device=str(device)) as file:
        settings = json.loads((file.metadata() or {}).get(SETTINGS, "{}"))
        return Parameters({name: file.get_tensor(name) for name in file.keys()}, settings)  # noqa: SIM118
