"""A component's weights by name, as the networks here read them: no diffusers, no torch modules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.backends.triton.operands import QUANTIZED, Layer, Norm, Observer, Quantized
from engines.model.constants import Settings, load_constants, settings_of, tensors_of

# Beside a quantized layer's weight, e4m3 [out, taps, in]: float32 [out], and one float32 for the layer's input.
WEIGHT_SCALE, INPUT_SCALE = "weight_scale", "input_scale"


@dataclass(frozen=True)
class Parameters:
    """The tensors whose names begin with `prefix`, on one device and in one dtype: those of one module."""

    tensors: Mapping[str, Tensor]
    settings: Settings
    prefix: str = ""
    observers: dict[str, Observer] | None = None  # by the layer's name; None: nothing is observed

    @classmethod
    def of(cls, module: nn.Module) -> Parameters:
        """A live module's own tensors; nothing is copied."""
        return cls(tensors_of(module), settings_of(module))

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Parameters:
        """A component's constants (model/constants.py), on a device."""
        return cls(*load_constants(path, device))

    def moved(self, device: torch.device) -> Parameters:
        """The same on a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def at(self, *names: str | int) -> Parameters:
        """The module that these names lead to, one level each."""
        return replace(self, prefix=self.prefix + "".join(f"{name}." for name in names))

    def __contains__(self, name: str) -> bool:
        full = self.prefix + name
        return full in self.tensors or any(key.startswith(f"{full}.") for key in self.tensors)

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[self.prefix + name]

    def setting(self, name: str) -> Any:
        """One setting of this module."""
        return self.settings[self.prefix.rstrip(".")][name]

    def count(self, name: str) -> int:
        """How many modules the list `name` has."""
        count = 0
        while f"{name}.{count}" in self:
            count += 1
        return count

    def each(self, name: str) -> list[Parameters]:
        """The modules of the list `name`, in order."""
        return [self.at(name, i) for i in range(self.count(name))]

    @property
    def weight(self) -> Tensor:
        """This module's weight."""
        return self["weight"]

    @property
    def bias(self) -> Tensor:
        """This module's bias, in float32."""
        return self["bias"].float()

    @property
    def matrix(self) -> Tensor:
        """The weight of a linear layer or a 1x1 convolution as [in, out], for `x @ matrix`."""
        return self.weight.reshape(self.weight.shape[0], -1).t()

    def layer(self, *names: str | int) -> Layer:
        """The layer of that name inside this module: quantized, if its weight is; entered in `observers`, if given."""
        at = self.at(*names)
        weight, observer = at.weight, None
        if self.observers is not None:
            observer = self.observers[at.prefix.rstrip(".")] = Observer.on(weight.device)
        if weight.dtype != QUANTIZED:
            side = weight.shape[2] if weight.dim() == 4 else 1
            return Layer(_laid_out(weight), side, observer=observer)
        side = math.isqrt(weight.shape[1])
        quantized = Quantized(float(at[INPUT_SCALE]), at[WEIGHT_SCALE] * at[INPUT_SCALE])
        return Layer(weight.flatten(1), side, quantized, observer)

    @property
    def linear(self) -> tuple[Tensor, Tensor]:
        """Weight [out, in] and bias [out], as torch's `linear` takes them."""
        return self.weight, self["bias"]

    @property
    def norm(self) -> Norm:
        """This module as a group or layer norm."""
        settings = self.settings[self.prefix.rstrip(".")]
        return Norm(self.weight.float(), self.bias, settings["groups"], settings["eps"])


def _laid_out(weight: Tensor) -> Tensor:
    """A convolution's weight in the layout in which convolutions are fastest; others as they are."""
    return weight.contiguous(memory_format=torch.channels_last) if weight.dim() == 4 else weight
