"""The Triton kernels against the torch code that says what they mean. `pytest -m gpu tests/gpu/test_kernels.py`"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engines.backends.triton import ops
from engines.backends.triton.operands import LARGEST, QUANTIZED, Features, Layer, Norm, Quantized
from engines.backends.triton.quantize import quantized_weight

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]

# float16 has eleven bits: half of the last is 2.4e-4.
CLOSE = 5e-4
INPUT_SCALE = 0.01


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float16) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to("cuda", dtype)


def norm(channels: int, groups: int) -> Norm:
    return Norm(
        noise(channels, seed=1, dtype=torch.float32), noise(channels, seed=2, dtype=torch.float32), groups, 1e-5
    )


def on_cpu(value: object) -> object:
    if isinstance(value, Norm):
        return Norm(value.gamma.cpu(), value.beta.cpu(), value.groups, value.eps)
    if isinstance(value, Layer):
        return Layer(value.weight.float().cpu(), value.side)
    if isinstance(value, Features):
        return Features(value.data.float().cpu(), value.deferred.cpu())
    return value.float().cpu() if isinstance(value, Tensor) else value


def assert_as_on_cpu(operation: object, *given: object, **options: object) -> None:
    """The CPU's form, in float32, on the same numbers; every element is finite, so every one was written."""
    found = operation(*given, **options)  # type: ignore[operator]
    expected = operation(*map(on_cpu, given), **options)  # type: ignore[operator]
    assert torch.isfinite(found).all()
    assert float((found.float().cpu() - expected).norm() / expected.norm()) < CLOSE
    assert found.shape == expected.shape


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize(
    ("rows", "height", "width", "channels", "groups"),
    [
        (2, 8, 8, 1280, 32),  # one program a group
        (3, 6, 4, 96, 16),
        (2, 64, 64, 320, 32),  # sums, moments, apply
        (1, 40, 24, 960, 32),
        (2, 64, 48, 48, 16),  # fewer channels than a run
        (1, 256, 256, 128, 32),
    ],
)
def test_group_norm(rows: int, height: int, width: int, channels: int, groups: int, silu: bool) -> None:
    x = noise(rows, height, width, channels) * 2 + 1
    for deferred in (noise(channels, dtype=torch.float32), noise(rows, 2 * channels, seed=3)[:, channels:]):
        assert_as_on_cpu(ops.group_norm, x, deferred, norm(channels, groups), silu=silu)


@pytest.mark.parametrize(("count", "channels"), [(5, 48), (4096, 320), (77, 640), (64, 1280)])
def test_layer_norm(count: int, channels: int) -> None:
    assert_as_on_cpu(ops.layer_norm, noise(count, channels), noise(channels, dtype=torch.float32), norm(channels, 1))


@pytest.mark.parametrize(
    ("count", "inputs"), [(8192, 320), (2048, 640), (4096, 1280), (100, 1280), (70, 48), (33, 96), (70, 20)]
)
def test_geglu(count: int, inputs: int) -> None:
    weight = noise(8 * inputs, inputs, seed=1) * inputs**-0.5
    assert_as_on_cpu(ops.geglu, noise(count, inputs), Layer(weight), noise(8 * inputs, seed=2, dtype=torch.float32))


@pytest.mark.parametrize(("count", "inputs"), [(4096, 320), (100, 1280), (70, 48)])
@pytest.mark.parametrize("copies_tiles", [False, True])
def test_geglu_on_cards_with_little_shared_memory(
    copies_tiles: bool, count: int, inputs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on GPUs before Hopper, which do not copy tiles, and on RTX cards after it, which do."""
    from engines.backends.triton import kernels

    monkeypatch.setattr(kernels, "_device", lambda _index: (132, copies_tiles, False))
    test_geglu(count, inputs)


def test_a_gate_of_any_size_is_gelu() -> None:
    """The product is zero, so the gates are their biases: small steps near zero, and far into both tails."""
    gates = torch.cat([torch.linspace(-8, 8, 2048), torch.linspace(-300, 300, 2048)])
    bias = torch.stack([torch.ones_like(gates), gates], dim=1).flatten().cuda()
    x, weight = noise(64, 64) * 0, noise(len(bias), 64)
    found = ops.geglu(x, Layer(weight), bias)[0].double().cpu()
    expected = functional.gelu(gates.double())
    rounding = expected.abs() * 2**-11 + 2**-25
    assert float(((found - expected).abs() - rounding).max()) < 2.6e-5


def quantized_layer(outputs: int, inputs: int, side: int) -> Layer:
    weight = noise(outputs, inputs, side, side, seed=1, dtype=torch.float32) * (inputs * side * side) ** -0.5
    data, scale = quantized_weight(weight)
    return Layer(data.flatten(1), side, Quantized(INPUT_SCALE, scale * INPUT_SCALE))


def quantized_noise(*shape: int) -> Tensor:
    return (noise(*shape, dtype=torch.float32) / INPUT_SCALE).clamp(-LARGEST, LARGEST).to(QUANTIZED)


def moved_to_cpu(layer: Layer) -> Layer:
    assert layer.quantized is not None
    return replace(
        layer, weight=layer.weight.cpu(), quantized=replace(layer.quantized, factors=layer.quantized.factors.cpu())
    )


needs_e4m3 = pytest.mark.skipif(
    torch.cuda.is_available() and torch.cuda.get_device_capability() < (8, 9), reason="this GPU does not compute in fp8"
)
SIZES = [
    (4, 64, 64, 320, 320, 3),
    (2, 64, 64, 960, 320, 3),
    (16, 32, 32, 640, 640, 3),
    (2, 16, 16, 1280, 1280, 3),
    (16, 8, 8, 2560, 1280, 3),
    (3, 40, 24, 64, 96, 3),
    (2, 6, 4, 192, 128, 3),
    (1, 1, 8192, 320, 960, 1),
    (1, 1, 77, 1280, 640, 1),
    (1, 1, 20000, 1280, 320, 1),
]


@needs_e4m3
@pytest.mark.parametrize("plus", [True, False])
@pytest.mark.parametrize(("rows", "height", "width", "inputs", "outputs", "side"), SIZES)
def test_a_quantized_product(
    rows: int, height: int, width: int, inputs: int, outputs: int, side: int, plus: bool
) -> None:
    """Sums are float32, which the tensor cores cut to some fourteen bits: 2.5e-3 at 11,520 terms."""
    layer, x = quantized_layer(outputs, inputs, side), quantized_noise(rows, height, width, inputs)
    added = noise(rows, height, width, outputs, seed=5) if plus else None
    found = ops.product(x, layer, added=added)
    expected = ops.product(x.cpu(), moved_to_cpu(layer), added=None if added is None else added.cpu())
    assert torch.isfinite(found).all()
    assert float((found.cpu().float() - expected.float()).norm() / expected.float().norm()) < 4e-3


@needs_e4m3
@pytest.mark.parametrize(("rows", "height", "width", "inputs", "outputs", "side"), SIZES)
def test_a_row_alone_is_the_row_in_a_batch_bit_for_bit(
    rows: int, height: int, width: int, inputs: int, outputs: int, side: int
) -> None:
    layer = quantized_layer(outputs, inputs, side)
    x = quantized_noise(16, height, width, inputs)
    whole = ops.product(x, layer)
    for part in (1, 2, rows):
        assert torch.equal(ops.product(x[3 : 3 + part].contiguous(), layer), whole[3 : 3 + part])
    for _ in range(20):  # what tiles share must not depend on how fast each is
        assert torch.equal(ops.product(x, layer), whole)


@needs_e4m3
@pytest.mark.parametrize(("count", "inputs"), [(8192, 320), (2048, 640), (512, 1280), (70, 64)])
def test_a_quantized_geglu(count: int, inputs: int) -> None:
    up, down = quantized_layer(8 * inputs, inputs, 1).each(ops.in_pairs), quantized_layer(inputs, 4 * inputs, 1)
    bias, x = noise(8 * inputs, seed=2, dtype=torch.float32), quantized_noise(count, inputs)
    found = ops.geglu(x, up, bias, into=down)
    expected = ops.geglu(x.cpu(), moved_to_cpu(up), bias.cpu(), into=moved_to_cpu(down))
    assert found.dtype == QUANTIZED
    different = (found.cpu().view(torch.uint8) != expected.view(torch.uint8)).float().mean()
    assert float(different) < 0.1  # values near zero, whose steps are small beside the tanh form's error
    assert float((found.cpu().float() - expected.float()).norm() / expected.float().norm()) < 0.01
    assert torch.equal(ops.geglu(x[:33].contiguous(), up, bias, into=down), found[:33])


@needs_e4m3
@pytest.mark.parametrize(
    ("rows", "height", "width", "channels", "groups"), [(2, 8, 8, 1280, 32), (2, 64, 64, 320, 32), (3, 24, 16, 96, 16)]
)
def test_norms_write_e4m3(rows: int, height: int, width: int, channels: int, groups: int) -> None:
    x, layer = noise(rows, height, width, channels) * 2 + 1, quantized_layer(64, channels, 1)
    deferred = noise(channels, dtype=torch.float32)
    cases: list[tuple[Tensor, Callable[..., Tensor], dict[str, Any]]] = [
        (x, ops.group_norm, {"silu": True}),
        (x.view(-1, channels), ops.layer_norm, {}),
    ]
    for given, operation, options in cases:
        one = norm(channels, groups if given is x else 1)
        found = operation(given, deferred, one, **options, into=layer)
        expected = operation(given, deferred, one, **options)
        assert found.dtype == QUANTIZED
        meant = (expected.float() / INPUT_SCALE).clamp(-LARGEST, LARGEST)
        assert float((found.float() - meant).norm() / meant.norm()) < 0.03


@pytest.mark.parametrize("loud", [1.0, 3.0])
@pytest.mark.parametrize(
    ("rows", "heads", "length"), [(2, 8, 1536), (1, 1, 64), (3, 8, 77), (16, 8, 4096), (2, 5, 320)]
)
def test_self_attention_with_heads_of_40(rows: int, heads: int, length: int, loud: float) -> None:
    """Against float32 on the GPU. Loud inputs: large logits, outliers, and maxima that come late."""
    qkv = noise(rows, length, 3 * 40 * heads) * loud
    if loud > 1:
        qkv[:, ::13] *= 2
        qkv[:, length // 2 :, 40 * heads : 80 * heads] += 0.5
    found = ops.self_attention(qkv, heads)
    query, key, value = (ops.by_head(part.float(), heads) for part in qkv.chunk(3, dim=-1))
    for row in range(rows):
        weights = (query[row] @ key[row].transpose(1, 2) / 40**0.5).softmax(-1)
        expected = (weights @ value[row]).transpose(0, 1).flatten(1)
        error = float((found[row].float() - expected).norm() / expected.norm())
        assert error < 2 * CLOSE * loud**0.5, (row, error)


def test_heads_of_40_are_the_kernels_own_on_a_hopper_gpu() -> None:
    from engines.backends.triton import hopper

    qkv = noise(1, 64, 3 * 320)
    assert hopper.takes(qkv, 8) == (torch.cuda.get_device_capability() == hopper.CAPABILITY)
    assert not hopper.takes(qkv, 4)  # heads of 80 are cuDNN's
    assert not hopper.takes(qkv.float(), 8)


@pytest.mark.parametrize("skips", [2, 4])
@pytest.mark.parametrize(("left", "right"), [(640, 320), (48, 32), (0, 64)])
def test_joined(left: int, right: int, skips: int) -> None:
    hidden = Features(noise(4, 24, 16, left), noise(left, seed=4, dtype=torch.float32)) if left else None
    skip = Features(noise(skips, 24, 16, right, seed=1), noise(right, seed=5, dtype=torch.float32))
    control = Features(noise(skips, 24, 16, right, seed=2), noise(right, seed=6, dtype=torch.float32))
    scales = noise(3, 4, seed=3)
    for scale in scales:  # rows of a matrix, not all of them aligned
        assert_as_on_cpu(ops.joined, hidden, skip, control, scale)


@pytest.mark.parametrize(("height", "width", "channels"), [(8, 8, 1280), (32, 48, 640), (5, 3, 48)])
def test_unfolded(height: int, width: int, channels: int) -> None:
    x = noise(2, height + 1, width + 1, 4 * channels)
    assert_as_on_cpu(ops.unfolded, x, noise(channels, seed=1, dtype=torch.float32))
