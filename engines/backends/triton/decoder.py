"""The VAE's decoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engines.backends.triton import ops
from engines.backends.triton.blocks import Resnet, Upsample, padded_inputs, padded_outputs
from engines.backends.triton.parameters import Parameters


class Decoder:
    """latent [N,h,w,4], already divided by the scaling factor -> image [N,8h,8w,3]."""

    def __init__(self, at: Parameters) -> None:
        post_quant = at.at("post_quant")
        self._post_quant, self._post_quant_bias = post_quant.matrix, post_quant["bias"]
        at = at.at("decoder")
        self._conv_in = padded_inputs(at.at("conv_in").weight)
        middle = at.at("mid_block")
        self._first = Resnet(middle.at("resnets", 0), at.at("conv_in").bias)
        self._attention = _PixelAttention(middle.at("attentions", 0), self._first.deferred)
        self._last = Resnet(middle.at("resnets", 1), self._attention.deferred)
        deferred = self._last.deferred
        self._levels: list[tuple[list[Resnet], Upsample | None]] = []
        for block in at.each("up_blocks"):
            resnets = []
            for parameters in block.each("resnets"):
                resnets.append(Resnet(parameters, deferred))
                deferred = resnets[-1].deferred
            up = Upsample(block.at("upsamplers", 0), deferred) if "upsamplers" in block else None
            deferred = deferred if up is None else up.deferred
            self._levels.append((resnets, up))
        self._norm_out, self._deferred_out = at.at("conv_norm_out").norm, deferred
        self._conv_out, self._bias_out = padded_outputs(at.at("conv_out").weight), at.at("conv_out").bias

    def __call__(self, latent: Tensor) -> Tensor:
        """Values of about -1..1."""
        x = latent @ self._post_quant + self._post_quant_bias
        x = ops.convolved(functional.pad(x, (0, self._conv_in.shape[1] - x.shape[3])), self._conv_in)
        x = self._last(self._attention(self._first(x)))
        for resnets, up in self._levels:
            for resnet in resnets:
                x = resnet(x)
            x = x if up is None else up(x)
        x = ops.group_norm(x, self._deferred_out, self._norm_out, silu=True)
        return ops.convolved(x, self._conv_out)[..., : self._bias_out.shape[0]] + self._bias_out.to(x.dtype)


class _PixelAttention:
    """GroupNorm, attention with one head over all pixels, plus the shortcut around them.

    Fused attention does not take a head of 512 channels; two products and a softmax are as fast.
    """

    def __init__(self, at: Parameters, deferred: Tensor) -> None:
        names = ("to_q", "to_k", "to_v")
        self._deferred_in, self._norm = deferred, at.at("group_norm").norm
        self._weight = torch.cat([at.at(name).weight for name in names])
        self._bias = torch.cat([at.at(name)["bias"] for name in names])
        out = at.at("to_out", 0)
        self._out, self.deferred = out.matrix, deferred + out.bias

    def __call__(self, x: Tensor) -> Tensor:
        """[N,H,W,C] -> the same, written into x."""
        n = ops.group_norm(x, self._deferred_in, self._norm, silu=False).flatten(1, 2)
        query, key, value = functional.linear(n, self._weight, self._bias).chunk(3, dim=-1)
        # The scale goes into the product: unscaled scores can be too large for float16.
        scores = torch.baddbmm(
            query.new_empty(1, 1, 1), query, key.transpose(1, 2), beta=0, alpha=query.shape[-1] ** -0.5
        )
        h = torch.bmm(torch.softmax(scores, dim=-1), value)
        x.view(-1, x.shape[3]).addmm_(h.view(-1, h.shape[2]), self._out)
        return x
