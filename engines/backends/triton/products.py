"""One Triton kernel for the convolutions and linear layers of a quantized set: e4m3 where it pays, float16 elsewhere.

A convolution is an implicit matrix product: the tensor descriptor of [R, H, W, C] copies a tile of pixels, shifted by
the tap, and reads zeros outside the picture, so padding costs nothing. A linear layer has one tap.

Every output is a sum over taps and channels in one order, whatever the tile and the batch: what a row becomes does not
depend on the rows beside it. Quantized layers need that: a rounding error before one can become a whole step of e4m3.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from engines.backends.triton.kernels import stored
from engines.backends.triton.operands import QUANTIZED, Layer, Quantized

# A step of the product takes this many bytes of each pixel's channels: a row of shared memory.
STEP_BYTES = 128


class Tile(NamedTuple):
    """What one program computes at a time, and how.

    `swapped`: the product's rows are output channels and its columns pixels, so that the tensor cores' widest
    instruction takes pixels, which there are always enough of. `merged`: the loops over tiles and steps are one, and
    the first copies for a tile run while the one before it is finished.
    """

    pixels: int
    outputs: int
    warps: int
    stages: int
    resident: int  # programs on one multiprocessor
    swapped: bool = False
    merged: bool = False


@dataclass(frozen=True)
class Device:
    """What the choice of tiles needs to know of a GPU: multiprocessors, and a program's shared memory in bytes."""

    processors: int
    shared: int


def product(x: Tensor, layer: Layer, added: Tensor | None = None) -> Tensor:
    """x [R,H,W,C] * the layer -> [R,H,W,outputs], float16; plus `added`, float16 of that shape.

    x is e4m3 if the layer is quantized, else float16. A convolution of 2 x 2 taps gives [R,H+1,W+1,outputs].
    """
    rows, height, width, _ = x.shape
    grow = 1 if layer.side == 2 else 0
    shape = (rows, height + grow, width + grow, layer.outputs)
    y = x.new_empty(shape, dtype=torch.float16)
    device = _device(x.device.index)
    tile = tile_for(shape, layer.side, x.element_size(), device, added=added is not None)
    _launch(x, layer, y, tile, device, added=None if added is None else added.view(shape))
    return y


def gated(x: Tensor, layer: Layer, bias: Tensor, into: Quantized) -> Tensor:
    """x e4m3 [M,K], outputs in pairs of value and gate, `bias` [2F] -> value * gelu(gate), e4m3 [M,F].

    gelu by its tanh form (Hendrycks and Gimpel, 2016), within 5e-4 of the exact one: a hundredth of a step of e4m3.
    """
    y = x.new_empty(1, 1, x.shape[0], layer.outputs // 2, dtype=QUANTIZED)
    device = _device(x.device.index)
    tile = _fitting(Tile(128, 128, 4, 3, 2, merged=True), x.element_size(), device, buffers=1)
    _launch(x.view(1, 1, *x.shape), layer, y, tile, device, bias=bias, into=into)
    return y.view(y.shape[2:])


def tile_for(shape: tuple[int, int, int, int], side: int, element: int, device: Device, *, added: bool = False) -> Tile:
    """The tile for an output of this shape [R,H,W,C]; `element` is the bytes of an input's element.

    Measured on an H200 at one and eight pictures of 512x512 (docs/notes/): large tiles where they fill the GPU, narrow
    ones where there are few.
    """
    rows, height, width, outputs = shape
    pixels = rows * height * width
    if side == 1:
        wide = outputs % 128 > 0 and pixels >= 128 * device.processors
        tile = Tile(256, 128, 8, 3, 1, swapped=True) if wide and added else Tile(128, 128, 4, 4, 1, merged=not added)
        tile = tile._replace(merged=True) if not tile.swapped else tile
    else:
        wide = outputs % 128 > 0 and _tiles(pixels, outputs, 256, 128) >= device.processors // 2
        few = _tiles(pixels, outputs, 128, 128) < device.processors // 2
        if wide:
            tile = Tile(256, 128, 8, 3, 1, swapped=True)
        else:
            tile = Tile(128, 64, 4, 6, 1, swapped=True) if few else Tile(128, 128, 8, 4, 1, swapped=True)
    return _fitting(tile, element, device, buffers=2 if added and tile.merged else 1)


def _tiles(pixels: int, outputs: int, block: int, columns: int) -> int:
    return triton.cdiv(pixels, block) * triton.cdiv(outputs, columns)


def _fitting(tile: Tile, element: int, device: Device, *, buffers: int) -> Tile:
    """The tile with as many stages as the GPU has shared memory for; smaller, if it has not enough for two."""
    kept = tile.pixels * tile.outputs * 2 * buffers
    step = (tile.pixels + tile.outputs) * STEP_BYTES
    room = (device.shared // tile.resident - kept - 1024) // step
    if room < 2:
        smaller = tile._replace(pixels=max(tile.pixels // 2, 64), resident=1, warps=4)
        return (
            smaller._replace(stages=2)
            if smaller.pixels == tile.pixels
            else _fitting(smaller, element, device, buffers=buffers)
        )
    return tile._replace(stages=min(tile.stages, room))


def box_of(pixels: int, rows: int, height: int, width: int) -> tuple[int, int, int]:
    """A tile of so many pixels as rows x height x width: as little as possible of it outside the pictures."""
    if rows * height == 1:
        return 1, 1, pixels
    across = min(triton.next_power_of_2(width), pixels, 64)
    while across > 8 and -(-width // across) * across > -(-width // (across // 2)) * (across // 2):
        across //= 2
    down = min(triton.next_power_of_2(height), pixels // across)
    while down > 8 and -(-height // down) * down > -(-height // (down // 2)) * (down // 2):
        down //= 2
    return pixels // (across * down), down, across


@lru_cache
def _device(index: int) -> Device:
    properties = triton.runtime.driver.active.utils.get_device_properties(index)
    return Device(properties["multiprocessor_count"], properties["max_shared_mem"])


def _launch(
    x: Tensor, layer: Layer, y: Tensor, tile: Tile, device: Device, *,
    added: Tensor | None = None, bias: Tensor | None = None, into: Quantized | None = None,
) -> None:  # fmt: skip
    rows, height, width, columns = y.shape
    weight, channels = layer.unrolled, x.shape[3]
    box = box_of(tile.pixels, rows, height, width)
    step = _step_of(channels, x.element_size(), wide=tile.swapped and tile.pixels == 256)
    stored_columns = tile.outputs // (weight.shape[0] // columns)
    tiles = triton.cdiv(rows, box[0]) * triton.cdiv(height, box[1]) * triton.cdiv(width, box[2])
    tiles *= triton.cdiv(weight.shape[0], tile.outputs)
    target = TensorDescriptor.from_tensor(y, [*box, stored_columns])
    addend = target if added is None else TensorDescriptor.from_tensor(added, [*box, stored_columns])
    factors = weight if layer.quantized is None else layer.quantized.factors
    _product[(min(tiles, tile.resident * device.processors),)](
        TensorDescriptor.from_tensor(x, [*box, step]),
        TensorDescriptor.from_tensor(weight, [tile.outputs, step]),
        factors, weight if bias is None else bias, addend, target, rows, height, width, 1.0 if into is None else into.inverse,
        C=channels, N=weight.shape[0], SIDE=layer.side, ROWS=box[0], HEIGHT=box[1], WIDTH=box[2],
        BLOCK_N=tile.outputs, BLOCK_K=step, SCALED=layer.quantized is not None, ADDED=added is not None,
        GATED=bias is not None, SWAPPED=tile.swapped, MERGED=tile.merged, GROUP=8,
        num_warps=tile.warps, num_stages=tile.stages * (STEP_BYTES // (step * x.element_size())),
    )  # fmt: skip


def _step_of(channels: int, element: int, *, wide: bool) -> int:
    """Input channels a step: a row of shared memory, or half of one for large tiles where that leaves none empty."""
    whole = STEP_BYTES // element
    halves = wide and channels % whole > 0 and channels % (whole // 2) == 0
    return whole // 2 if halves else whole


@triton.jit(do_not_specialize=["rows", "height", "width"])
def _product(
    x, weight, factors, bias, added, y, rows, height, width, inverse,
    C: tl.constexpr, N: tl.constexpr, SIDE: tl.constexpr, ROWS: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SCALED: tl.constexpr, ADDED: tl.constexpr,
    GATED: tl.constexpr, SWAPPED: tl.constexpr, MERGED: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    BLOCK_M: tl.constexpr = ROWS * HEIGHT * WIDTH
    OUTPUTS: tl.constexpr = BLOCK_N // 2 if GATED else BLOCK_N
    down, across = tl.cdiv(height, HEIGHT), tl.cdiv(width, WIDTH)
    blocks_m, blocks_n = tl.cdiv(rows, ROWS) * down * across, tl.cdiv(N, BLOCK_N)
    for tile in tl.range(tl.program_id(0), blocks_m * blocks_n, tl.num_programs(0), flatten=MERGED):
        # Tiles that run at the same time share weights and pixels, which stay cached.
        band = tile // (GROUP * blocks_n)
        in_band = tl.minimum(blocks_m - band * GROUP, GROUP)
        within = tile % (GROUP * blocks_n)
        m, n = band * GROUP + within % in_band, within // in_band * BLOCK_N
        row, top, left = m // (down * across) * ROWS, m // across % down * HEIGHT, m % across * WIDTH
        acc = _sums(x, weight, row, top, left, n, C, SIDE, BLOCK_M, BLOCK_N, BLOCK_K, SWAPPED)
        column = n + tl.arange(0, BLOCK_N)
        first = n // 2 if GATED else n
        if SWAPPED:
            if SCALED:
                acc *= tl.load(factors + column, column < N, 0)[:, None]
            if ADDED:
                acc += added.load([row, top, left, first]).reshape(BLOCK_M, OUTPUTS).to(tl.float32).T
            result = stored(acc, inverse, y.dtype).T
        else:
            if SCALED:
                acc *= tl.load(factors + column, column < N, 0)[None, :]
            if GATED:
                acc += tl.load(bias + column, column < N, 0)[None, :]
                value, gate = tl.split(tl.reshape(acc, (BLOCK_M, OUTPUTS, 2)))
                acc = value * _gelu_by_tanh(gate)
            if ADDED:
                acc += added.load([row, top, left, first]).reshape(BLOCK_M, OUTPUTS).to(tl.float32)
            result = stored(acc, inverse, y.dtype)
        y.store([row, top, left, first], result.reshape(ROWS, HEIGHT, WIDTH, OUTPUTS))


@triton.jit
def _sums(
    x, weight, row, top, left, n,
    C: tl.constexpr, SIDE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    SWAPPED: tl.constexpr,
):  # fmt: skip
    """One tile's sums over taps and channels, float32: [pixels, outputs], or [outputs, pixels]."""
    STEPS: tl.constexpr = (C + BLOCK_K - 1) // BLOCK_K
    acc = tl.zeros([BLOCK_N, BLOCK_M] if SWAPPED else [BLOCK_M, BLOCK_N], tl.float32)
    for step in tl.range(SIDE * SIDE * STEPS):
        tap, k = step // STEPS, step % STEPS * BLOCK_K
        shifted = [row, top + tap // SIDE - SIDE // 2, left + tap % SIDE - SIDE // 2, k]
        pixels = x.load(shifted).reshape(BLOCK_M, BLOCK_K)
        # Channels past C are zeros in `pixels`, whatever the weight has there.
        if SWAPPED:
            acc = tl.dot(weight.load([n, tap * C + k]), pixels.T, acc)
        else:
            acc = tl.dot(pixels, weight.load([n, tap * C + k]).T, acc)
    return acc


@triton.jit
def _gelu_by_tanh(x):
    inner = x * (0.7978845608028654 + 0.035677408136300125 * x * x)
    # One instruction of the GPU; all others together take longer than the product.
    tanh = tl.inline_asm_elementwise("tanh.approx.f32 $0, $1;", "=f,f", [inner], tl.float32, is_pure=True, pack=1)
    half = 0.5 * x
    return half + half * tanh


# All kernels of this file that are launched: a set records their keys (kernel_keys.py).
KERNELS = (_product,)
