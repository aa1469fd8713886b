"""A component's weights by name, as the networks here read them: no diffusers, no torch modules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.backends.triton.operands import Norm
from engines.model.constants import Settings, load_constants, settings_of, tensors_of


@dataclass(frozen=True)
class Parameters:
    """The tensors whose names begin with `prefix`, on one device and in one dtype: those of one module."""

    tensors: Mapping[str, Tensor]
    settings: Settings
    prefix: str = ""

    @classmethod
    def of(cls, module: nn.Module) -> Parameters:
        """A live module's own tensors; nothing is copied."""
        return cls(tensors_of(module), settings_of(module))

    @classmethod
    def load(cls, path: Path, device: torch.device) -> Parameters:
        """A component's constants (model/constants.py), on a device."""
        return cls(*load_constants(path, device))

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

    @property
    def linear(self) -> tuple[Tensor, Tensor]:
        """Weight [out, in] and bias [out], as torch's `linear` takes them."""
        return self.weight, self["bias"]

    @property
    def norm(self) -> Norm:
        """This module as a group or layer norm."""
        settings = self.settings[self.prefix.rstrip(".")]
        return Norm(self.weight.float(), self.bias, settings["groups"], settings["eps"])
