"""The U-Net in two parts: `encode` needs no controls, so it can run beside the ControlNet; `decode` does."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from engines.backends.triton import ops
from engines.backends.triton.blocks import Upsample, padded_outputs
from engines.backends.triton.encoder import Conditions, Encoder, Layers
from engines.backends.triton.operands import Features
from engines.backends.triton.parameters import Parameters


class Encoded(NamedTuple):
    """The state between the halves: twelve skip connections and the middle, and the conditions of the way up."""

    skips: list[Features]
    conditions: Conditions


class UNet:
    """x_noisy, timestep, context, controls -> the predicted noise."""

    def __init__(self, at: Parameters) -> None:
        self._encoder = Encoder(at)
        deferred = torch.zeros_like(self._encoder.deferred[-1])  # the join with the middle's control adds it
        self._levels: list[tuple[Layers, list[Tensor], Upsample | None]] = []
        for block in at.each("up_blocks"):
            widths = [resnet.at("norm1").weight.shape[0] for resnet in block.each("resnets")]
            # Nothing is deferred past a join, and every resnet of the way up reads one.
            zeros = [torch.zeros(width, device=deferred.device) for width in widths]
            layers, last = self._encoder.layers(block, zeros)
            outputs = [(transformer or resnet).deferred for resnet, transformer in layers]
            up = Upsample(block.at("upsamplers", 0), last) if "upsamplers" in block else None
            self._levels.append((layers, [deferred, *outputs[:-1]], up))
            deferred = last if up is None else up.deferred
        self._norm_out, self._deferred_out = at.at("conv_norm_out").norm, deferred
        self._conv_out, self._bias_out = padded_outputs(at.at("conv_out").weight), at.at("conv_out").bias

    def encode(self, x: Tensor, timestep: Tensor, context: Tensor) -> Encoded:
        """x [R/2,h,w,4], timestep [R/2], context [R,77,width]."""
        conditions = self._encoder.conditions(timestep, context)
        return Encoded(self._encoder(x, conditions), conditions)

    def decode(self, encoded: Encoded, controls: list[Features], scales: Tensor) -> Tensor:
        """`scales` float [R,13] -> the predicted noise, [R,h,w,4]."""
        scales = scales.t().contiguous()
        skips = list(zip(encoded.skips, controls, scales.unbind(0), strict=True))
        times = iter(encoded.conditions.times[self._encoder.resnets :])
        middle, control, scale = skips.pop()
        x = ops.joined(None, middle, control, scale)
        for layers, biases, up in self._levels:
            for (resnet, transformer), deferred in zip(layers, biases, strict=True):
                skip, control, scale = skips.pop()
                x = ops.joined(Features(x, deferred), skip, control, scale)
                x = resnet(x, next(times))
                if transformer is not None:
                    x = transformer(x, encoded.conditions.contexts)
            if up is not None:
                x = up(x)
        x = ops.group_norm(x, self._deferred_out, self._norm_out, silu=True)
        return ops.convolved(x, self._conv_out)[..., : self._bias_out.shape[0]] + self._bias_out.to(x.dtype)
