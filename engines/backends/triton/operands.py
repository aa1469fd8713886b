"""What the operations take besides plain tensors: norms, layers, and feature maps with a deferred bias."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

QUANTIZED = torch.float8_e4m3fn
LARGEST = 448.0  # of e4m3


class Norm(NamedTuple):
    """A group or layer norm: float32 [C] each, groups (1 for a layer norm), and what is added to the variance."""

    gamma: Tensor
    beta: Tensor
    groups: int
    eps: float


class Features(NamedTuple):
    """Feature maps [R,H,W,C], or [R/2,H,W,C] if both halves are the same, and their deferred bias, float32 [C]."""

    data: Tensor
    deferred: Tensor

    @property
    def whole(self) -> Tensor:
        """The features with the deferred bias added, in float32."""
        return self.data.float() + self.deferred


@dataclass
class Observer:
    """What was seen of a layer's inputs: their largest magnitude, and how many of how many were clipped.

    Tensors of one element on the layer's device, so that watching never waits for it.
    """

    peak: Tensor
    clipped: Tensor
    values: int = 0

    @classmethod
    def on(cls, device: torch.device) -> Observer:
        """An observer on a device that has seen no values yet."""
        return cls(torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device))

    def see(self, inputs: Tensor, scale: float | None) -> None:
        """`inputs` as they are before they are quantized with `scale`, if they are."""
        sizes = inputs.abs()
        self.peak.copy_(torch.maximum(self.peak, sizes.amax().float()))
        if scale is not None:
            self.clipped += (sizes.float() > LARGEST * scale).sum()
        self.values += inputs.numel()


@dataclass(frozen=True)
class Quantized:
    """How a layer is quantized. Its input is divided by `scale`; `factors` [out], float32, undo both scales."""

    scale: float
    factors: Tensor

    @property
    def inverse(self) -> float:
        """1 / scale."""
        return 1 / self.scale


@dataclass(frozen=True)
class Layer:
    """A linear layer or a convolution of side * side taps without bias, whose input a norm or a gate writes.

    `weight` is [out, in] or [out, in, side, side] in the network's dtype. Where `quantized` is given it is e4m3,
    [out, side * side * in], ordered by tap and then by input channel, and the input is e4m3 as well.
    """

    weight: Tensor
    side: int = 1
    quantized: Quantized | None = None
    observer: Observer | None = field(default=None, compare=False)

    @classmethod
    def stacked(cls, layers: Sequence[Layer]) -> Layer:
        """One layer with the outputs of several that read the same input, one behind the other."""
        first = layers[0]
        if first.quantized is None:
            return cls(torch.cat([layer.weight for layer in layers]), first.side, observer=first.observer)
        weight = torch.cat([layer.weight.view(torch.uint8) for layer in layers]).view(QUANTIZED)
        factors = torch.cat([layer.quantized.factors for layer in layers if layer.quantized is not None])
        return cls(weight, first.side, Quantized(first.quantized.scale, factors), first.observer)

    def each(self, reordered: Callable[[Tensor], Tensor]) -> Layer:
        """The layer with its outputs in another order."""
        quantized = self.quantized
        if quantized is not None:
            quantized = replace(quantized, factors=reordered(quantized.factors))
        weight = reordered(self.weight.view(torch.uint8)).view(QUANTIZED) if quantized else reordered(self.weight)
        return replace(self, weight=weight, quantized=quantized)

    @property
    def flat(self) -> Layer:
        """A convolution of one tap as a linear layer."""
        return replace(self, weight=self.weight.flatten(1))

    @property
    def outputs(self) -> int:
        """The number of output channels."""
        return self.weight.shape[0]
