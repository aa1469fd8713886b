"""What the operations take besides plain tensors: a norm's weights, and feature maps with a deferred bias."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


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
