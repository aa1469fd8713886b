"""The Triton kernels behind ops.py. Tensors are channels last, so a program reads runs of channels.

Sizes that decide how a kernel is compiled are constexpr. Kernels are not specialized on sizes that differ from batch to
batch (`do_not_specialize`): one binary serves all of them, and a set has few kernels.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from engines.backends.triton.operands import QUANTIZED, Features, Norm, Quantized

# One program norms a whole group of a picture in registers, up to this many elements.
WHOLE = 16384
CHANNELS = 64  # a run of channels: 128 bytes of float16
# The fewest pixels that one program sums, and the most such programs for a picture's run of channels.
CHUNK_PIXELS, CHUNKS = 256, 256
APPLY_PIXELS = 64


def group_norm(x: Tensor, deferred: Tensor, norm: Norm, *, silu: bool, quantized: Quantized | None = None) -> Tensor:
    """As ops.group_norm; e4m3 if `quantized`."""
    rows, height, width, channels = x.shape
    pixels = height * width
    size = channels // norm.groups
    y = _empty_like(x, quantized)
    inverse = 1.0 if quantized is None else quantized.inverse
    stride = deferred.stride(0) if deferred.dim() == 2 else 0
    padded = triton.next_power_of_2(size)
    whole = triton.next_power_of_2(pixels) * padded
    if whole <= WHOLE:
        _group_norm_whole[(rows, norm.groups)](
            x, deferred, norm.gamma, norm.beta, y, pixels, stride, norm.eps, inverse,
            C=channels, SIZE=size, PADDED=padded, PIXELS=triton.next_power_of_2(pixels), SILU=silu,
            num_warps=4 if whole <= 4096 else 8 if whole <= 16384 else 16,
        )  # fmt: skip
        return y
    blocks = triton.cdiv(channels, CHANNELS)
    # It does not depend on the batch: all batch sizes share a binary.
    chunks = min(CHUNKS, triton.next_power_of_2(max(1, pixels // CHUNK_PIXELS)))
    sums = x.new_empty(rows, chunks, 2, channels, dtype=torch.float32)
    _sums[(rows, chunks, blocks)](x, sums, pixels, chunks, C=channels, CHANNELS=CHANNELS, PIXELS=32, num_warps=4)
    factors = x.new_empty(rows, 2, channels, dtype=torch.float32)
    _moments[(rows, norm.groups)](
        sums, deferred, norm.gamma, norm.beta, factors, pixels, stride, norm.eps,
        C=channels, SIZE=size, PADDED=padded, CHUNKS=chunks, num_warps=4,
    )  # fmt: skip
    _apply[(rows, triton.cdiv(pixels, APPLY_PIXELS), blocks)](
        x, factors, y, pixels, inverse, C=channels, CHANNELS=CHANNELS, PIXELS=APPLY_PIXELS, SILU=silu, num_warps=4
    )
    return y


def _empty_like(x: Tensor, quantized: Quantized | None) -> Tensor:
    return torch.empty_like(x) if quantized is None else torch.empty_like(x, dtype=QUANTIZED)


@triton.jit
def stored(value, inverse, dtype: tl.constexpr):
    """float32 -> `dtype`. For e4m3 it is divided by its scale, and what is too large becomes the largest value."""
    if dtype == tl.float8e4nv:
        value = tl.minimum(tl.maximum(value * inverse, -448.0), 448.0)
    return value.to(dtype)


@triton.jit(do_not_specialize=["pixels", "deferred_stride"])
def _group_norm_whole(
    x, deferred, gamma, beta, y, pixels, deferred_stride, eps, inverse,
    C: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, PIXELS: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0), tl.program_id(1)
    pixel, local = tl.arange(0, PIXELS), tl.arange(0, PADDED)
    channel = group * SIZE + local
    mask = (pixel < pixels)[:, None] & (local < SIZE)[None, :]
    offsets = row.to(tl.int64) * pixels * C + pixel[:, None] * C + channel[None, :]
    missing = tl.load(deferred + row * deferred_stride + channel, local < SIZE, 0).to(tl.float32)
    value = tl.load(x + offsets, mask, 0).to(tl.float32)
    value = tl.where(mask, value + missing[None, :], 0)
    count = pixels * SIZE
    mean = tl.sum(tl.sum(value, 1), 0) / count
    centred = tl.where(mask, value - mean, 0)
    variance = tl.sum(tl.sum(centred * centred, 1), 0) / count
    scale = tl.load(gamma + channel, local < SIZE, 0) * tl.rsqrt(variance + eps)
    shift = tl.load(beta + channel, local < SIZE, 0)
    result = centred * scale[None, :] + shift[None, :]
    if SILU:
        result = result * tl.sigmoid(result)
    tl.store(y + offsets, stored(result, inverse, y.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["pixels", "chunks"])
def _sums(x, sums, pixels, chunks, C: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    row, chunk = tl.program_id(0), tl.program_id(1)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    per_chunk = tl.cdiv(pixels, chunks)
    first, last = chunk * per_chunk, tl.minimum(chunk * per_chunk + per_chunk, pixels)
    base = x + row.to(tl.int64) * pixels * C
    total = tl.zeros([PIXELS, CHANNELS], tl.float32)
    squares = tl.zeros([PIXELS, CHANNELS], tl.float32)
    for begin in range(first, last, PIXELS):
        pixel = begin + tl.arange(0, PIXELS)
        mask = (pixel < last)[:, None] & (channel < C)[None, :]
        value = tl.load(base + pixel[:, None] * C + channel[None, :], mask, 0).to(tl.float32)
        total += value
        squares += value * value
    target = sums + (row * chunks + chunk) * 2 * C + channel
    tl.store(target, tl.sum(total, 0), channel < C)
    tl.store(target + C, tl.sum(squares, 0), channel < C)


@triton.jit(do_not_specialize=["pixels", "deferred_stride"])
def _moments(
    sums, deferred, gamma, beta, factors, pixels, deferred_stride, eps,
    C: tl.constexpr, SIZE: tl.constexpr, PADDED: tl.constexpr, CHUNKS: tl.constexpr,
):  # fmt: skip
    row, group = tl.program_id(0), tl.program_id(1)
    local = tl.arange(0, PADDED)
    channel, mask = group * SIZE + local, local < SIZE
    offsets = (row * CHUNKS + tl.arange(0, CHUNKS))[:, None] * 2 * C + channel[None, :]
    total = tl.sum(tl.load(sums + offsets, mask[None, :], 0), 0)
    squares = tl.sum(tl.load(sums + offsets + C, mask[None, :], 0), 0)
    # The deferred bias shifts each channel: the sum and the squares with it follow without reading the features again.
    missing = tl.load(deferred + row * deferred_stride + channel, mask, 0).to(tl.float32)
    squares += missing * (2 * total + pixels * missing)
    total += pixels * missing
    count = pixels * SIZE
    mean = tl.sum(total, 0) / count
    variance = tl.maximum(tl.sum(squares, 0) / count - mean * mean, 0)
    scale = tl.load(gamma + channel, mask, 0) * tl.rsqrt(variance + eps)
    shift = tl.load(beta + channel, mask, 0) + (missing - mean) * scale
    target = factors + row * 2 * C + channel
    tl.store(target, scale, mask)
    tl.store(target + C, shift, mask)


@triton.jit(do_not_specialize=["pixels"])
def _apply(
    x, factors, y, pixels, inverse, C: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr, SILU: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    mask = (pixel < pixels)[:, None] & (channel < C)[None, :]
    offsets = row.to(tl.int64) * pixels * C + pixel[:, None] * C + channel[None, :]
    scale = tl.load(factors + row * 2 * C + channel, channel < C, 0)
    shift = tl.load(factors + row * 2 * C + C + channel, channel < C, 0)
    result = tl.load(x + offsets, mask, 0).to(tl.float32) * scale[None, :] + shift[None, :]
    if SILU:
        result = result * tl.sigmoid(result)
    tl.store(y + offsets, stored(result, inverse, y.dtype.element_ty), mask)


def layer_norm(x: Tensor, deferred: Tensor, norm: Norm, quantized: Quantized | None = None) -> Tensor:
    """As ops.layer_norm; e4m3 if `quantized`."""
    count, channels = x.shape
    y = _empty_like(x, quantized)
    inverse = 1.0 if quantized is None else quantized.inverse
    padded = triton.next_power_of_2(channels)
    _layer_norm[(triton.cdiv(count, 2),)](
        x,
        deferred,
        norm.gamma,
        norm.beta,
        y,
        count,
        norm.eps,
        inverse,
        C=channels,
        PADDED=padded,
        EACH=2,
        num_warps=1,
    )
    return y


@triton.jit(do_not_specialize=["count"])
def _layer_norm(
    x, deferred, gamma, beta, y, count, eps, inverse, C: tl.constexpr, PADDED: tl.constexpr, EACH: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0) * EACH + tl.arange(0, EACH)
    channel = tl.arange(0, PADDED)
    mask = (row < count)[:, None] & (channel < C)[None, :]
    offsets = row[:, None] * C + channel[None, :]
    value = tl.load(x + offsets, mask, 0).to(tl.float32) + tl.load(deferred + channel, channel < C, 0)[None, :]
    value = tl.where(mask, value, 0)
    centred = tl.where(mask, value - (tl.sum(value, 1) / C)[:, None], 0)
    scale = tl.rsqrt(tl.sum(centred * centred, 1) / C + eps)
    gains, shifts = tl.load(gamma + channel, channel < C, 0), tl.load(beta + channel, channel < C, 0)
    result = centred * scale[:, None] * gains[None, :] + shifts[None, :]
    tl.store(y + offsets, stored(result, inverse, y.dtype.element_ty), mask)


def geglu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As ops.geglu: product, bias and gate in one kernel, so that the gate never goes to memory."""
    count, inputs = x.shape
    outputs = weight.shape[0]
    y = x.new_empty(count, outputs // 2)
    processors, copies_tiles, roomy = _device(x.device.index)
    tiles = triton.cdiv(count, 128) * triton.cdiv(outputs, 128)
    common = {"K": inputs, "N": outputs, "BLOCK_M": 128, "GROUP": 8}
    if not copies_tiles or inputs % 8:  # the unit that copies tiles takes rows of whole 16 bytes only
        _geglu_by_pointers[(tiles,)](
            x, weight, bias, y, count, **common, BLOCK_N=128, BLOCK_K=32, num_warps=4, num_stages=4
        )
        return y
    # Large blocks if they fill the GPU twice; otherwise small ones, two on a multiprocessor: with two stages in 100 KB.
    wide = roomy and tiles >= 4 * processors
    block_n, warps, programs = (256, 8, processors) if wide else (128, 4, 2 * processors)
    tiles = triton.cdiv(count, 128) * triton.cdiv(outputs, block_n)
    left, right = TensorDescriptor.from_tensor(x, [128, 64]), TensorDescriptor.from_tensor(weight, [block_n, 64])
    _geglu[(min(tiles, programs),)](
        left, right, bias, y, count, **common, BLOCK_N=block_n, BLOCK_K=64, num_warps=warps, num_stages=2 + roomy
    )
    return y


@lru_cache
def _device(index: int) -> tuple[int, bool, bool]:
    """A GPU's multiprocessors, whether it has a unit that copies tiles, and whether it has room for large blocks.

    The unit (TMA) is in Hopper and later. The room is shared memory for three stages of large blocks, up to 176 KB: the
    data-centre chips of Hopper and Blackwell have it (228 KB a multiprocessor), RTX cards do not (100 KB).
    """
    gpu = torch.cuda.get_device_properties(index)
    return gpu.multi_processor_count, gpu.major >= 9, gpu.shared_memory_per_multiprocessor >= 180 * 1024


@triton.jit
def _gelu(x):
    """x * Phi(x), with Phi(x) = 1 / (1 + 2 ** -x(a + bx^2 + cx^4)): within 2.6e-5 of gelu.

    a, b and c minimize the largest error. `erf` takes twice the instructions (docs/notes/2026-11-gpu.md).
    """
    square = tl.minimum(x * x, 20.0)  # where the fit ends, Phi is within 4e-6 of 0 or 1
    exponent = x * (-2.3011194 + square * (-0.106777403 + square * 0.00101453913))
    # The GPU has an instruction for 2 ** x and one for 1 / x; an exact division takes several.
    phi = tl.inline_asm_elementwise(
        "{.reg .f32 e; ex2.approx.ftz.f32 e, $1; add.f32 e, e, 0f3F800000; rcp.approx.ftz.f32 $0, e;}",
        "=f,f", [exponent], tl.float32, is_pure=True, pack=1,
    )  # fmt: skip
    return x * phi


@triton.jit
def _tile_origin(tile, count, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """A tile's first row and column. Tiles that run at the same time share weights and rows of x, which stay cached."""
    blocks_m, blocks_n = tl.cdiv(count, BLOCK_M), tl.cdiv(N, BLOCK_N)
    band = tile // (GROUP * blocks_n)
    rows = tl.minimum(blocks_m - band * GROUP, GROUP)
    within = tile % (GROUP * blocks_n)
    return (band * GROUP + within % rows) * BLOCK_M, within // rows * BLOCK_N


@triton.jit
def _gated(acc, bias, y, m, n, count, N: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """Finish the product at (m, n): add the bias, split the pairs, store value * gelu(gate)."""
    both = n + tl.arange(0, BLOCK_N)
    acc += tl.load(bias + both, both < N, 0)[None, :]
    value, gate = tl.split(tl.reshape(acc, (BLOCK_M, BLOCK_N // 2, 2)))
    row, column = m + tl.arange(0, BLOCK_M), n // 2 + tl.arange(0, BLOCK_N // 2)
    offsets = row.to(tl.int64)[:, None] * (N // 2) + column[None, :]
    mask = (row < count)[:, None] & (column < N // 2)[None, :]
    tl.store(y + offsets, (value * _gelu(gate)).to(y.dtype.element_ty), mask)


@triton.jit(do_not_specialize=["count"])
def _geglu(
    x, weight, bias, y, count, K: tl.constexpr, N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    tiles = tl.cdiv(count, BLOCK_M) * tl.cdiv(N, BLOCK_N)
    # One program for each slot on the GPU. `flatten` merges its loops over tiles and over K: the first loads of a tile
    # run while the gates of the tile before it are computed.
    for tile in tl.range(tl.program_id(0), tiles, tl.num_programs(0), flatten=True):
        m, n = _tile_origin(tile, count, N, BLOCK_M, BLOCK_N, GROUP)
        acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
        for k in range(0, K, BLOCK_K):
            acc = tl.dot(x.load([m, k]), weight.load([n, k]).T, acc)  # out of range, both are zero
        _gated(acc, bias, y, m, n, count, N, BLOCK_M, BLOCK_N)


@triton.jit(do_not_specialize=["count"])
def _geglu_by_pointers(
    x, weight, bias, y, count, K: tl.constexpr, N: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    m, n = _tile_origin(tl.program_id(0), count, N, BLOCK_M, BLOCK_N, GROUP)
    row, column, k = m + tl.arange(0, BLOCK_M), n + tl.arange(0, BLOCK_N), tl.arange(0, BLOCK_K)
    # Rows and columns out of range read the first one again; their results are not stored.
    left = x + tl.where(row < count, row, 0)[:, None] * K + k[None, :]
    right = weight + tl.where(column < N, column, 0)[None, :] * K + k[:, None]
    acc = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for begin in range(0, K, BLOCK_K):
        if K % BLOCK_K == 0:
            acc = tl.dot(tl.load(left), tl.load(right), acc)
        else:
            mask = k < K - begin
            acc = tl.dot(tl.load(left, mask[None, :], 0), tl.load(right, mask[:, None], 0), acc)
        left += BLOCK_K
        right += BLOCK_K
    _gated(acc, bias, y, m, n, count, N, BLOCK_M, BLOCK_N)


def joined(hidden: Features | None, skip: Features, control: Features, scale: Tensor) -> Tensor:
    """As ops.joined."""
    rows, (_, height, width, right) = scale.shape[0], skip.data.shape
    left = 0 if hidden is None else hidden.data.shape[3]
    y = skip.data.new_empty(rows, height, width, left + right)
    _joined[(rows, triton.cdiv(height * width, 64), triton.cdiv(left + right, CHANNELS))](
        *(hidden or skip), *skip, *control, scale, y, height * width, skip.data.shape[0], control.data.shape[0],
        LEFT=left, RIGHT=right, CHANNELS=CHANNELS, PIXELS=64, num_warps=4,
    )  # fmt: skip
    return y


# `scale` is one row of a matrix: its alignment depends on the batch.
@triton.jit(do_not_specialize=["pixels", "skips", "controls"], do_not_specialize_on_alignment=["scale"])
def _joined(
    hidden, hidden_deferred, skip, skip_deferred, control, control_deferred, scale, y, pixels, skips, controls,
    LEFT: tl.constexpr, RIGHT: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    pixel = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    in_picture = pixel < pixels
    on_left, right_channel = channel < LEFT, channel - LEFT
    on_right = (channel >= LEFT) & (channel < LEFT + RIGHT)
    left_offsets = row.to(tl.int64) * pixels * LEFT + pixel[:, None] * LEFT + channel[None, :]
    acc = tl.load(hidden + left_offsets, in_picture[:, None] & on_left[None, :], 0).to(tl.float32)
    acc += tl.load(hidden_deferred + channel, on_left, 0)[None, :]
    mask = in_picture[:, None] & on_right[None, :]
    right_offsets = pixel[:, None] * RIGHT + right_channel[None, :]
    acc += tl.load(skip + (row % skips).to(tl.int64) * pixels * RIGHT + right_offsets, mask, 0).to(tl.float32)
    acc += tl.load(skip_deferred + right_channel, on_right, 0)[None, :]
    value = tl.load(control + (row % controls).to(tl.int64) * pixels * RIGHT + right_offsets, mask, 0).to(tl.float32)
    value += tl.load(control_deferred + right_channel, on_right, 0)[None, :]
    acc += tl.load(scale + row).to(tl.float32) * value
    offsets = row.to(tl.int64) * pixels * (LEFT + RIGHT) + pixel[:, None] * (LEFT + RIGHT) + channel[None, :]
    tl.store(y + offsets, acc.to(y.dtype.element_ty), in_picture[:, None] & (on_left | on_right)[None, :])


def unfolded(x: Tensor, bias: Tensor) -> Tensor:
    """As ops.unfolded."""
    rows, height, width, channels = x.shape[0], x.shape[1] - 1, x.shape[2] - 1, x.shape[3] // 4
    y = x.new_empty(rows, 2 * height, 2 * width, channels)
    _unfolded[(rows * 2 * height, triton.cdiv(2 * width, 32), triton.cdiv(channels, CHANNELS))](
        x, bias, y, height, width, C=channels, CHANNELS=CHANNELS, PIXELS=32, num_warps=4
    )
    return y


@triton.jit(do_not_specialize=["height", "width"])
def _unfolded(x, bias, y, height, width, C: tl.constexpr, CHANNELS: tl.constexpr, PIXELS: tl.constexpr):
    line = tl.program_id(0)  # of the output lines of all rows
    row, top = line // (2 * height), line % (2 * height)
    left = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    mask = (left < 2 * width)[:, None] & (channel < C)[None, :]
    i, j = top % 2, left % 2
    source = (row.to(tl.int64) * (height + 1) + top // 2 + i) * (width + 1) + left // 2 + j
    value = tl.load(x + source[:, None] * 4 * C + ((i * 2 + j) * C)[:, None] + channel[None, :], mask, 0).to(tl.float32)
    value += tl.load(bias + channel, channel < C, 0)[None, :]
    target = line.to(tl.int64) * 2 * width + left
    tl.store(y + target[:, None] * C + channel[None, :], value.to(y.dtype.element_ty), mask)


# All kernels that are launched: a set records their keys (kernel_keys.py).
KERNELS = (_group_norm_whole, _sums, _moments, _apply, _layer_norm, _geglu, _geglu_by_pointers, _joined, _unfolded)
