"""The Triton kernel behind products.py: one for convolutions and for linear layers, in e4m3.

A convolution is an implicit matrix product: the tensor descriptor of [R, H, W, C] copies a tile of pixels, shifted by
the tap, and reads zeros outside the picture, so padding costs nothing. A linear layer has one tap.

Every output is a sum over taps and channels in one order, whatever the tile and the batch: what a row becomes does not
depend on the rows beside it. Quantized layers need that: a rounding error before one can become a whole step of e4m3.
"""

from __future__ import annotations

import triton
import triton.language as tl

from engines.backends.triton.kernels import stored


@triton.jit(do_not_specialize=["rows", "height", "width"])
def product_kernel(
    x, weight, factors, bias, added, y, rows, height, width, inverse,
    C: tl.constexpr, N: tl.constexpr, SIDE: tl.constexpr, ROWS: tl.constexpr, HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, ADDED: tl.constexpr,
    GATED: tl.constexpr, SWAPPED: tl.constexpr, MERGED: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """x * weight -> y, as products.py says. Boxes are [ROWS, HEIGHT, WIDTH, channels] and [BLOCK_N, BLOCK_K]."""
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
            acc *= tl.load(factors + column, column < N, 0)[:, None]
            if ADDED:
                acc += added.load([row, top, left, first]).reshape(BLOCK_M, OUTPUTS).to(tl.float32).T
            result = stored(acc, inverse, y.dtype).T
        else:
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
KERNELS = (product_kernel,)
