"""The ControlNet in its two parts: the hint, once an image, and the controls, once a step."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from engines.backends.triton.blocks import channels_last
from engines.backends.triton.encoder import Encoder
from engines.backends.triton.operands import Features
from engines.backends.triton.parameters import Parameters


class Hint:
    """hint [N,H,W,3] in 0..1 -> guided_hint [N,h,w,C]: eight convolutions, three of them with stride 2."""

    def __init__(self, at: Parameters) -> None:
        embedding = at.at("embedding")
        layers = [embedding.at("conv_in"), *embedding.each("blocks"), embedding.at("conv_out")]
        self._convolutions = [(channels_last(layer.weight), layer["bias"]) for layer in layers]

    def __call__(self, hint: Tensor) -> Tensor:
        """Every second block halves the picture."""
        x = hint.permute(0, 3, 1, 2)
        last = len(self._convolutions) - 1
        for i, (weight, bias) in enumerate(self._convolutions):
            halves = 0 < i < last and i % 2 == 0
            x = functional.conv2d(x, weight, bias, stride=2 if halves else 1, padding=1)
            x = x if i == last else functional.silu(x)
        return x.permute(0, 2, 3, 1).contiguous()


class ControlNet:
    """x_noisy, guided_hint, timestep, context -> thirteen controls, not yet scaled."""

    def __init__(self, at: Parameters) -> None:
        self._encoder = Encoder(at)
        layers = [*at.each("controlnet_down_blocks"), at.at("controlnet_mid_block")]
        self._outs = [
            (layer.matrix, deferred @ layer.matrix.float() + layer.bias)
            for layer, deferred in zip(layers, self._encoder.deferred, strict=True)
        ]

    def __call__(self, x: Tensor, hint: Tensor, timestep: Tensor, context: Tensor) -> list[Features]:
        """x [R/2,h,w,4], hint [R/2,h,w,C], timestep [R/2], context [R,77,width]."""
        skips = self._encoder(x, self._encoder.conditions(timestep, context), hint=hint)
        return [Features(skip.data @ out, deferred) for skip, (out, deferred) in zip(skips, self._outs, strict=True)]
