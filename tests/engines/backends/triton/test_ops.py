"""What the operations between convolutions mean, against torch's own modules. The kernels' tests are in tests/gpu."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from engines.backends.triton import ops
from engines.backends.triton.blocks import Upsample
from engines.backends.triton.operands import Features, Layer, Norm
from engines.backends.triton.parameters import Parameters


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def first(x: Tensor) -> Tensor:
    """Channels last -> channels first."""
    return x.permute(0, 3, 1, 2)


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("by_row", [True, False])
def test_a_group_norm_adds_the_deferred_bias_first(silu: bool, by_row: bool) -> None:
    x, gamma, beta = noise(2, 4, 6, 12), noise(12, seed=1), noise(12, seed=2)
    deferred = noise(2, 12, seed=3) if by_row else noise(12, seed=3)
    found = ops.group_norm(x, deferred, Norm(gamma, beta, 4, 1e-5), silu=silu)
    expected = nn.functional.group_norm(first(x + deferred.view(-1, 1, 1, 12)), 4, gamma, beta, 1e-5)
    expected = nn.functional.silu(expected) if silu else expected
    torch.testing.assert_close(first(found), expected)


def test_a_layer_norm_adds_the_deferred_bias_first() -> None:
    x, deferred, gamma, beta = noise(5, 12), noise(12, seed=1), noise(12, seed=2), noise(12, seed=3)
    expected = nn.functional.layer_norm(x + deferred, (12,), gamma, beta, 1e-5)
    torch.testing.assert_close(ops.layer_norm(x, deferred, Norm(gamma, beta, 1, 1e-5)), expected)


def test_geglu_is_diffusers_own() -> None:
    from diffusers.models.activations import GEGLU

    module = GEGLU(8, 16)
    x = noise(5, 8)
    with torch.inference_mode():
        weight, bias = ops.in_pairs(module.proj.weight), ops.in_pairs(module.proj.bias)
        torch.testing.assert_close(ops.geglu(x, Layer(weight), bias), module(x))


def test_self_attention_is_attention_of_the_three_parts() -> None:
    qkv = noise(2, 12, 3 * 16)
    query, key, value = (part.view(2, 12, 4, 4).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
    expected = nn.functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    torch.testing.assert_close(ops.self_attention(qkv, 4), expected)


def test_a_skip_joins_with_its_scaled_control_and_rows_of_one_half_serve_both() -> None:
    hidden, skip, control = noise(4, 2, 3, 5), noise(2, 2, 3, 7, seed=1), noise(2, 2, 3, 7, seed=2)
    biases = [noise(width, seed=width) for width in (5, 7, 8)]
    scale = torch.tensor([0.0, 0.5, 1.0, 2.0])
    skipped, steer = Features(skip, biases[1]), Features(control, biases[2][:7])
    found = ops.joined(Features(hidden, biases[0]), skipped, steer, scale)
    for row in range(4):
        right = skip[row % 2] + biases[1] + scale[row] * (control[row % 2] + biases[2][:7])
        torch.testing.assert_close(found[row], torch.cat([hidden[row] + biases[0], right], dim=-1))


def test_without_a_left_part_the_join_is_the_right_one() -> None:
    skip, control, nothing = noise(2, 2, 3, 7), noise(2, 2, 3, 7, seed=1), torch.zeros(7)
    found = ops.joined(None, Features(skip, nothing), Features(control, nothing), torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(found, skip + torch.tensor([1.0, 0.5]).view(-1, 1, 1, 1) * control)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 5), (8, 4)])
def test_an_upsampling_convolution_is_nearest_neighbours_then_three_by_three(height: int, width: int) -> None:
    module = nn.Module()
    module.conv = nn.Conv2d(6, 10, 3, padding=1)
    deferred = noise(6, seed=1)
    x = noise(2, height, width, 6)
    with torch.inference_mode():
        enlarged = nn.functional.interpolate(first(x + deferred), scale_factor=2, mode="nearest")
        expected = module.conv(enlarged)
        found = Upsample(Parameters.of(module), deferred)(x)
    torch.testing.assert_close(first(found), expected, rtol=1e-4, atol=1e-5)
