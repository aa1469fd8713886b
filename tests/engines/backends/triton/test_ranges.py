"""A range of sizes needs the kernels of a few: every launch at every size has a binary after those have run."""

from __future__ import annotations

from itertools import product

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: torch's CUDA builds bring it, its CPU builds do not")

from engines.backends.triton import kernel_job, kernels
from engines.backends.triton.kernel_job import sizes
from engines.backends.triton.operands import Norm
from engines.spec import Profile
from tests.engines.backends.triton.launches import CARDS, Card, Engines, recorded

# So few multiprocessors that a batch of these small pictures fills some and not others: both configurations occur.
SMALL_HOPPER = Card("a small H200", 90, 2, True, True, 227 * 1024)


@pytest.fixture(scope="module")
def engines() -> Engines:
    return Engines((32, 64, 64, 64), (32, 32, 64, 64), groups=8, context=64)


@pytest.fixture(scope="module")
def quantized_engines() -> Engines:
    return Engines((32, 64, 64, 64), (32, 32, 64, 64), groups=8, context=64, fp8=True)


@pytest.mark.parametrize("fp8", [False, True])
def test_every_size_of_a_range_launches_what_its_few_sizes_launched(
    engines: Engines, quantized_engines: Engines, fp8: bool
) -> None:
    engines = quantized_engines if fp8 else engines
    profile = Profile.parse("64x64:192x256", max_batch=2)
    few = sizes([profile], quantized=fp8)
    with recorded(SMALL_HOPPER) as built:
        for batch, height, width in few:
            engines.run(batch, height, width)
    grid = list(product((1, 2), range(64, 193, 64), range(64, 257, 64)))
    assert fp8 or len(few) < len(grid)
    with recorded(SMALL_HOPPER) as needed:
        for batch, height, width in grid:
            engines.render(batch, height, width)
    assert needed == built
    if fp8:
        assert {launch.kernel for launch in built} >= {"product_kernel", "_group_norm_whole"}
    else:
        assert len({launch.options for launch in built if launch.kernel == "_geglu"}) == 2


def test_a_wide_range_needs_few_sizes_and_has_every_norm_of_it() -> None:
    """Of all kernels only the group norms are compiled for a picture's size: here at each size, level and width."""
    profile = Profile.parse("256x256:1024x1024", max_batch=8)
    shapes = {(height, width) for _, height, width in sizes([profile])}
    assert len(shapes) <= 16
    every = set(product(range(256, 1025, 64), range(256, 1025, 64)))
    with recorded(CARDS[2]) as built:
        norm_at(shapes)
    with recorded(CARDS[2]) as needed:
        norm_at(every)
    assert needed == built


def norm_at(shapes: set[tuple[int, int]]) -> None:
    for (height, width), level, size in product(shapes, range(7), (4, 10, 40, 80)):
        x = torch.empty(1, height >> level, width >> level, 32 * size, dtype=torch.float16, device="meta")
        weight = torch.empty(32 * size, device="meta")
        kernels.group_norm(x, weight, Norm(weight, weight, 32, 1e-5), silu=True)


def test_the_constants_of_sizes_are_those_of_the_kernels() -> None:
    names = ("WHOLE", "CHUNK_PIXELS", "CHUNKS")
    assert [getattr(kernel_job, name) for name in names] == [getattr(kernels, name) for name in names]
