"""The operations between convolutions and matrix products: each is a Triton kernel on a GPU, and torch code elsewhere.

The torch code here defines what an operation means; the kernels (kernels.py) are tested against it. Features are
[R, H, W, C] and contiguous, which torch calls channels last.

`deferred` is a deferred bias, float [C], or [R, C] if it differs by row. A bias that is not needed immediately is not
added where it arises, which would be one more pass over the tensor: the next operation that reads the tensor adds it.

`into` is the layer that reads the result. If it is quantized, the result is divided by its scale, clipped, and e4m3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from engines.backends.triton import hopper
from engines.backends.triton.operands import LARGEST, QUANTIZED, Features, Layer, Norm, Quantized


def group_norm(x: Tensor, deferred: Tensor, norm: Norm, *, silu: bool, into: Layer | None = None) -> Tensor:
    """GroupNorm of x [R,H,W,C] + deferred; then SiLU, if `silu`."""
    if x.is_cuda:
        from engines.backends.triton import kernels

        return _for_layer(into, lambda quantized: kernels.group_norm(x, deferred, norm, silu=silu, quantized=quantized))
    full = x.float() + deferred.float().view(-1, 1, 1, x.shape[3])
    result = functional.group_norm(full.permute(0, 3, 1, 2), norm.groups, norm.gamma, norm.beta, norm.eps)
    result = functional.silu(result) if silu else result
    return _for_layer(into, partial(_converted, result.permute(0, 2, 3, 1), x.dtype))


def layer_norm(x: Tensor, deferred: Tensor, norm: Norm, *, into: Layer | None = None) -> Tensor:
    """LayerNorm of x [M,C] + deferred [C]."""
    if x.is_cuda:
        from engines.backends.triton import kernels

        return _for_layer(into, lambda quantized: kernels.layer_norm(x, deferred, norm, quantized))
    full = x.float() + deferred.float()
    result = functional.layer_norm(full, full.shape[-1:], norm.gamma, norm.beta, norm.eps)
    return _for_layer(into, partial(_converted, result, x.dtype))


def geglu(x: Tensor, up: Layer, bias: Tensor, *, into: Layer | None = None) -> Tensor:
    """x [M,K], `up` [2F,K], bias [2F] -> value * gelu(gate) [M,F]; outputs alternate, value and gate (`in_pairs`).

    Either both layers are quantized or neither is.
    """
    quantized = None if into is None else into.quantized
    assert (up.quantized is None) == (quantized is None), "the layers before and after a gate have one precision"
    if x.is_cuda and quantized is None:
        from engines.backends.triton import kernels

        return _for_layer(into, lambda _quantized: kernels.geglu(x, up.weight, bias))
    if x.is_cuda:
        from engines.backends.triton import products

        assert into is not None
        assert quantized is not None
        if into.observer is not None:
            into.observer.see(_gated(x, up, bias), quantized.scale)
        return products.gated(x, up, bias, quantized)
    plain = x.dtype if quantized is None else torch.float16
    return _for_layer(into, partial(_converted, _gated(x, up, bias), plain))


def _gated(x: Tensor, up: Layer, bias: Tensor) -> Tensor:
    both = _exact(x, up) + bias
    return both[:, 0::2] * functional.gelu(both[:, 1::2])


def product(x: Tensor, layer: Layer, *, added: Tensor | None = None) -> Tensor:
    """x [R,H,W,C] or [M,C] through the layer, plus `added`, which a linear layer may write its result into.

    A quantized layer takes e4m3 and gives float16; another one keeps the network's dtype. Convolutions pad with zeros.
    """
    if layer.quantized is None:
        return _plain_product(x, layer, added)
    if x.is_cuda:
        from engines.backends.triton import products

        shaped = x if x.dim() == 4 else x.view(1, 1, *x.shape)
        result = products.product(shaped, layer, added)
        return result if x.dim() == 4 else result.view(-1, layer.outputs)
    result = _exact(x, layer)
    return result.to(torch.float16) if added is None else (result + added.view(result.shape)).to(added.dtype)


def _plain_product(x: Tensor, layer: Layer, added: Tensor | None) -> Tensor:
    if layer.side > 1:
        result = convolved(x, layer.weight)
        return result if added is None else result.add_(added)
    if added is None:
        return x @ layer.weight.t()
    return added.addmm_(x, layer.weight.t())


def _exact(x: Tensor, layer: Layer) -> Tensor:
    """The product in float32, of what e4m3 numbers stand for."""
    weight = layer.weight.float()
    if layer.quantized is not None:
        weight = weight.view(layer.outputs, layer.side, layer.side, -1).permute(0, 3, 1, 2)
        weight = weight * layer.quantized.factors.view(-1, 1, 1, 1)
    else:
        weight = weight.view(layer.outputs, -1, layer.side, layer.side)
    shaped = x.float() if x.dim() == 4 else x.float().view(1, 1, *x.shape)
    result = functional.conv2d(shaped.permute(0, 3, 1, 2), weight, padding=layer.side // 2).permute(0, 2, 3, 1)
    return result.contiguous() if x.dim() == 4 else result.reshape(-1, layer.outputs)


def _for_layer(into: Layer | None, computed: Callable[[Quantized | None], Tensor]) -> Tensor:
    """What `computed` gives for the layer that reads it; an observed layer sees it before it is quantized."""
    if into is None:
        return computed(None)
    if into.observer is None:
        return computed(into.quantized)
    whole = computed(None)
    into.observer.see(whole, None if into.quantized is None else into.quantized.scale)
    return whole if into.quantized is None else computed(into.quantized)


def _converted(result: Tensor, dtype: torch.dtype, quantized: Quantized | None) -> Tensor:
    """float32 -> the network's dtype, or e4m3."""
    if quantized is None:
        return result.to(dtype).contiguous()
    return (result * quantized.inverse).clamp(-LARGEST, LARGEST).to(QUANTIZED).contiguous()


def in_pairs(rows: Tensor) -> Tensor:
    """[2F, ...], all values before all gates -> each value beside its gate, so that one tile of a product has both."""
    return torch.stack(rows.chunk(2), dim=1).flatten(0, 1)


def joined(hidden: Features | None, skip: Features, control: Features, scale: Tensor) -> Tensor:
    """[hidden | skip + scale * control], each with its deferred bias, [R,H,W,C1+C2]; `scale` is [R].

    Skip and control may have the rows of one half, which are then used for both. Without `hidden`: only the right part.
    """
    if scale.is_cuda:
        from engines.backends.triton import kernels

        return kernels.joined(hidden, skip, control, scale)
    copies = [scale.shape[0] // features.data.shape[0] for features in (skip, control)]
    right, addend = (features.whole.repeat(n, 1, 1, 1) for features, n in zip((skip, control), copies, strict=True))
    right = right + scale.float().view(-1, 1, 1, 1) * addend
    parts = [right] if hidden is None else [hidden.whole, right]
    return torch.cat(parts, dim=3).to(skip.data.dtype)


def unfolded(x: Tensor, bias: Tensor) -> Tensor:
    """x [R,H+1,W+1,4C], the four phases of features of twice the size, each with its own offset -> [R,2H,2W,C].

    Phase (i, j) holds output pixel (2y+i, 2x+j) at (y+i, x+j). `bias` [C] is added.
    """
    if x.is_cuda:
        from engines.backends.triton import kernels

        return kernels.unfolded(x, bias)
    rows, height, width, channels = x.shape[0], x.shape[1] - 1, x.shape[2] - 1, x.shape[3] // 4
    phases = x.view(rows, height + 1, width + 1, 2, 2, channels)
    result = x.new_empty(rows, height, 2, width, 2, channels)
    for i in (0, 1):
        for j in (0, 1):
            result[:, :, i, :, j] = phases[:, i : i + height, j : j + width, i, j]
    return result.view(rows, 2 * height, 2 * width, channels) + bias.to(x.dtype)


def self_attention(qkv: Tensor, heads: int) -> Tensor:
    """qkv [R,S,3C]: queries, keys and values side by side -> [R,S,C]. Scaled by 1 / sqrt(C / heads)."""
    if hopper.takes(qkv, heads):
        return hopper.attention(qkv, heads)
    query, key, value = qkv.chunk(3, dim=-1)
    return attention(query, key, value, heads)


def attention(query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
    """query [R,S,C], key and value [R,L,C], strided or not -> [R,S,C]. Scaled by 1 / sqrt(C / heads)."""
    query, key, value = (by_head(x, heads) for x in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


def by_head(x: Tensor, heads: int) -> Tensor:
    """[R,S,C] -> [R,heads,S,C/heads], a view."""
    return x.view(*x.shape[:2], heads, x.shape[2] // heads).transpose(1, 2)


def convolved(x: Tensor, weight: Tensor, *, stride: int = 1, padding: int = 1) -> Tensor:
    """A convolution of [R,H,W,C] without bias; `weight` [out, C, kh, kw] is channels last."""
    result = functional.conv2d(x.permute(0, 3, 1, 2), weight, stride=stride, padding=padding)
    return result.permute(0, 2, 3, 1).contiguous()
