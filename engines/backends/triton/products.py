"""Quantized layers on a GPU: convolutions and linear layers in e4m3, summed in float32."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from engines.backends.triton.operands import QUANTIZED, Layer, Quantized
from engines.backends.triton.product_kernel import product_kernel
from engines.backends.triton.tiles import GATED, STEP_BYTES, Device, Tile, box_of, fitting, step_of, tile_for


def product(x: Tensor, layer: Layer, added: Tensor | None = None) -> Tensor:
    """x e4m3 [R,H,W,C] * the layer -> [R,H,W,outputs], float16; plus `added`, float16 of that shape."""
    rows, height, width, _ = x.shape
    shape = (rows, height, width, layer.outputs)
    y = x.new_empty(shape, dtype=torch.float16)
    device = _device(x.device.index)
    tile = tile_for(shape, layer.side, device, added=added is not None)
    _launch(x, layer, y, tile, device, added=None if added is None else added.view(shape))
    return y


def gated(x: Tensor, layer: Layer, bias: Tensor, into: Quantized) -> Tensor:
    """x e4m3 [M,K], outputs in pairs of value and gate, `bias` [2F] -> value * gelu(gate), e4m3 [M,F].

    gelu by its tanh form (Hendrycks and Gimpel, 2016), within 5e-4 of the exact one: a hundredth of a step of e4m3.
    """
    y = x.new_empty(1, 1, x.shape[0], layer.outputs // 2, dtype=QUANTIZED)
    device = _device(x.device.index)
    tile = fitting(GATED, device, buffers=1)
    _launch(x.view(1, 1, *x.shape), layer, y, tile, device, bias=bias, into=into)
    return y.view(y.shape[2:])


@lru_cache
def _device(index: int) -> Device:
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    return Device(properties["multiprocessor_count"], properties["max_shared_mem"])


def _described(tensor: Tensor, box: list[int]) -> TensorDescriptor:
    """A contiguous tensor's descriptor. Its own strides may be anything where a dimension has one element."""
    strides = [math.prod(tensor.shape[i + 1 :]) for i in range(tensor.dim())]
    return TensorDescriptor(tensor, list(tensor.shape), strides, box)


def _launch(
    x: Tensor, layer: Layer, y: Tensor, tile: Tile, device: Device, *,
    added: Tensor | None = None, bias: Tensor | None = None, into: Quantized | None = None,
) -> None:  # fmt: skip
    rows, height, width, columns = y.shape
    assert layer.quantized is not None
    weight, channels = layer.weight, x.shape[3]
    box = box_of(tile.pixels, rows, height, width)
    step = step_of(channels, tile)
    stored_columns = tile.outputs // (weight.shape[0] // columns)
    tiles = triton.cdiv(rows, box[0]) * triton.cdiv(height, box[1]) * triton.cdiv(width, box[2])
    tiles *= triton.cdiv(weight.shape[0], tile.outputs)
    target = _described(y, [*box, stored_columns])
    addend = target if added is None else _described(added, [*box, stored_columns])
    product_kernel[(min(tiles, tile.resident * device.processors),)](
        _described(x, [*box, step]),
        _described(weight, [tile.outputs, step]),
        layer.quantized.factors, weight if bias is None else bias, addend, target, rows, height, width,
        1.0 if into is None else into.inverse,
        C=channels, N=weight.shape[0], SIDE=layer.side, ROWS=box[0], HEIGHT=box[1], WIDTH=box[2],
        BLOCK_N=tile.outputs, BLOCK_K=step, ADDED=added is not None,
        GATED=bias is not None, SWAPPED=tile.swapped, MERGED=tile.merged, GROUP=8,
        num_warps=tile.warps, num_stages=tile.stages * (STEP_BYTES // step),
    )  # fmt: skip
