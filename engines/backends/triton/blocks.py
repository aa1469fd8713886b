"""The blocks of SD1.5's networks, over features [R, H, W, C] with deferred biases (ops.py).

A bias that no convolution or matrix product needs immediately is folded, when the weights are loaded, into whatever
reads the tensor next: a norm's statistics, a projection's constant, or the next join. So a block's call consists of its
convolutions, its matrix products and its norms; nothing else touches memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from engines.backends.triton import ops
from engines.backends.triton.operands import Layer
from engines.backends.triton.parameters import Parameters

TIME_ROWS = 16  # rows of a time embedding's products, at least


class Resnet:
    """GroupNorm, SiLU, 3x3, GroupNorm, SiLU, 3x3, plus the shortcut around them."""

    def __init__(self, at: Parameters, deferred: Tensor) -> None:
        """`deferred`: float32 [C], the bias that the input still lacks."""
        self._deferred_in = deferred
        self._norm1, self._norm2 = at.at("norm1").norm, at.at("norm2").norm
        self._conv1, self._conv2 = at.layer("conv1"), at.layer("conv2")
        self.inner_bias = at.at("conv1").bias  # added to the time embedding, if there is one
        self.time = at.at("time_emb_proj").linear if "time_emb_proj" in at else None
        self._shortcut: Tensor | None = None
        if "conv_shortcut" in at:
            shortcut = at.at("conv_shortcut")
            self._shortcut = shortcut.matrix
            deferred = deferred @ shortcut.matrix.float() + shortcut.bias
        self.deferred = deferred + at.at("conv2").bias

    def __call__(self, x: Tensor, time: Tensor | None = None) -> Tensor:
        """[R,H,W,C] -> [R,H,W,C2]; `time` [R,C2] includes `inner_bias`."""
        h = ops.group_norm(x, self._deferred_in, self._norm1, silu=True, into=self._conv1)
        h = ops.product(h, self._conv1)
        bias = self.inner_bias if time is None else time
        h = ops.group_norm(h, bias, self._norm2, silu=True, into=self._conv2)
        if self._shortcut is None:
            return ops.product(h, self._conv2, added=x)
        if self._conv2.quantized is not None:  # our own product adds without another pass over the features
            return ops.product(h, self._conv2, added=x @ self._shortcut)
        h = ops.product(h, self._conv2)
        h.view(-1, h.shape[3]).addmm_(x.reshape(-1, x.shape[3]), self._shortcut)
        return h


class Transformer:
    """GroupNorm, projection, self-attention, cross-attention, GEGLU, projection, plus the shortcut around them."""

    def __init__(self, at: Parameters, deferred: Tensor, contexts: Contexts) -> None:
        block = at.at("transformer_blocks", 0)
        own, cross, feed = block.at("attn1"), block.at("attn2"), block.at("ff", "net")
        self._deferred_in = deferred
        self._norm = at.at("norm").norm
        self._into, out = at.layer("proj_in").flat, at.at("proj_out")
        self._heads = own.setting("heads")
        self._norms = [block.at(f"norm{i}").norm for i in (1, 2, 3)]
        self._own = Layer.stacked([own.layer(name) for name in ("to_q", "to_k", "to_v")])
        self._own_out, self._cross_out = (a.at("to_out", 0).matrix for a in (own, cross))
        self._query = cross.layer("to_q")
        self._context = contexts.add(cross)
        gated = feed.at(0, "proj")
        self._up, self._up_bias = feed.layer(0, "proj").each(ops.in_pairs), ops.in_pairs(gated.bias)
        self._down = feed.layer(2)
        self._out = out.matrix
        biases = [at.at("proj_in").bias, *(a.at("to_out", 0).bias for a in (own, cross)), feed.at(2).bias]
        self._deferred = list(torch.stack(biases).cumsum(0))  # before each of the norms, and at the end
        self.deferred = deferred + out.bias + self._deferred[3] @ out.matrix.float()

    def __call__(self, x: Tensor, contexts: Tensor, *, double: bool = False) -> Tensor:
        """x [R,H,W,C] -> the same shape, written into x; `contexts` are the prompts' keys and values (Contexts).

        `double`: x has the rows of one half, and the other half's are the same until here. The prompts differ, so from
        the cross-attention on there are both.
        """
        rows, height, width, channels = x.shape
        n = ops.group_norm(x, self._deferred_in, self._norm, silu=False, into=self._into)
        h = ops.product(n.view(-1, channels), self._into)
        n = ops.layer_norm(h, self._deferred[0], self._norms[0], into=self._own)
        attended = ops.self_attention(ops.product(n, self._own).view(rows, -1, 3 * channels), self._heads)
        h.addmm_(attended.view(-1, channels), self._own_out)
        if double:
            rows, h, x = 2 * rows, h.repeat(2, 1), x.repeat(2, 1, 1, 1)
        n = ops.layer_norm(h, self._deferred[1], self._norms[1], into=self._query)
        query = ops.product(n, self._query)
        key, value = contexts[..., self._context].chunk(2, dim=-1)
        attended = ops.attention(query.view(rows, -1, channels), key, value, self._heads)
        h.addmm_(attended.view(-1, channels), self._cross_out)
        n = ops.layer_norm(h, self._deferred[2], self._norms[2], into=self._up)
        h = ops.product(ops.geglu(n, self._up, self._up_bias, into=self._down), self._down, added=h)
        x.view(-1, channels).addmm_(h, self._out)
        return x.view(rows, height, width, channels)


class Contexts:
    """Keys and values of all cross-attentions of a network, in one product: many small ones would be a launch each."""

    def __init__(self) -> None:
        self._weights: list[Tensor] = []
        self._width = 0
        self._matrix: Tensor | None = None

    def add(self, cross: Parameters) -> slice:
        """Register a cross-attention; returns the columns of the product that will hold its keys and values."""
        both = [cross.at("to_k").weight, cross.at("to_v").weight]
        self._weights += both
        begin, self._width = self._width, self._width + sum(weight.shape[0] for weight in both)
        return slice(begin, self._width)

    def __call__(self, context: Tensor) -> Tensor:
        """[R,77,width] -> [R,77, all keys and values]."""
        if self._matrix is None:
            self._matrix = torch.cat(self._weights).t()
            self._weights = []
        return context @ self._matrix


class Times:
    """The time embedding's projections into all resnets of a network, in one product."""

    def __init__(self, at: Parameters) -> None:
        self._first, self._second = at.at("linear_1").linear, at.at("linear_2").linear
        half = self._first[0].shape[1] // 2
        exponents = torch.arange(half, dtype=torch.float32, device=self._first[0].device) / half
        self._frequencies = torch.exp(exponents * -math.log(10000.0))
        self._resnets: list[Resnet] = []
        self._matrix: Tensor | None = None
        self._bias: Tensor | None = None

    @property
    def count(self) -> int:
        """The number of resnets."""
        return len(self._resnets)

    def add(self, resnet: Resnet) -> Resnet:
        """Register a resnet: calls give projections in this order."""
        self._resnets.append(resnet)
        return resnet

    def __call__(self, timestep: Tensor, *, copies: int) -> list[Tensor]:
        """[N] -> [copies * N, C] for each resnet, its inner bias included."""
        if self._matrix is None or self._bias is None:
            linears = [(*resnet.time, resnet.inner_bias) for resnet in self._resnets if resnet.time is not None]
            self._matrix = torch.cat([weight for weight, _, _ in linears]).t()
            self._bias = torch.cat([bias.float() + inner for _, bias, inner in linears]).to(self._matrix.dtype)
            for resnet in self._resnets:
                resnet.time = None  # the concatenated copy is enough
        count = timestep.shape[0]
        # Products of one row and of several are other kernels, with sums in another order. All steps of up to so many
        # samples take the same one: a sample alone gets the embedding that it gets in a batch.
        timestep = functional.pad(timestep, (0, -count % TIME_ROWS))
        angles = timestep.float()[:, None] * self._frequencies
        waves = torch.cat([angles.cos(), angles.sin()], dim=1).to(self._matrix.dtype)
        h = functional.linear(waves, *self._first)
        h = functional.linear(functional.silu(h), *self._second)
        projected = torch.addmm(self._bias, functional.silu(h), self._matrix)[:count].repeat(copies, 1)
        return list(torch.split(projected, [resnet.inner_bias.shape[0] for resnet in self._resnets], dim=1))


class Downsample:
    """3x3 with stride 2."""

    def __init__(self, at: Parameters, deferred: Tensor) -> None:
        """`deferred`: as in Resnet. A convolution that pads with zeros needs it, so the call adds it to its input."""
        self._weight = channels_last(at.at("conv").weight)
        self._deferred_in = deferred.to(self._weight.dtype)
        self.deferred = at.at("conv").bias

    def __call__(self, x: Tensor) -> Tensor:
        """[R,2H,2W,C] -> [R,H,W,C]; adds the deferred bias to x in place."""
        return ops.convolved(x.add_(self._deferred_in), self._weight, stride=2)


class Upsample:
    """Every pixel four times, then 3x3, as one 2x2 convolution of the small features: 4/9 of the arithmetic.

    Rows 2y and 2y+1 of the enlarged features are the same, so two of the three kernel rows always meet the same pixel;
    one kernel row with their sum does the same. Each of the four phases of the output has a 2x2 kernel of its own.
    """

    def __init__(self, at: Parameters, deferred: Tensor) -> None:
        """`deferred`: as in Downsample."""
        weight = at.at("conv").weight
        self._deferred_in = deferred.to(weight.dtype)
        # The kernel rows that meet the upper and the lower pixel, for an even and for an odd output row.
        halves = torch.tensor([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], device=weight.device).float()
        phases = torch.einsum("iay,jbx,ocyx->ijocab", halves, halves, weight.float())
        self._weight = channels_last(phases.flatten(0, 2).to(weight.dtype))
        self._bias = at.at("conv").bias
        self.deferred = torch.zeros_like(self._bias)

    def __call__(self, x: Tensor) -> Tensor:
        """[R,H,W,C] -> [R,2H,2W,C]; adds the deferred bias to x in place."""
        return ops.unfolded(ops.convolved(x.add_(self._deferred_in), self._weight), self._bias)


def channels_last(weight: Tensor) -> Tensor:
    """A convolution's weight in the layout in which convolutions are fastest."""
    return weight.contiguous(memory_format=torch.channels_last)


def padded_inputs(weight: Tensor, multiple: int = 8) -> Tensor:
    """The weight with input channels of zeros up to a multiple: tensor cores take eight at a time."""
    missing = -weight.shape[1] % multiple
    return channels_last(functional.pad(weight, (0, 0, 0, 0, 0, missing)))


def padded_outputs(weight: Tensor, multiple: int = 8) -> Tensor:
    """The weight with output channels of zeros up to a multiple."""
    missing = -weight.shape[0] % multiple
    return channels_last(functional.pad(weight, (0, 0, 0, 0, 0, 0, 0, missing)))
