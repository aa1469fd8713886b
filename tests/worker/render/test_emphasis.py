"""A chunk's encoding with weights: each token's row is multiplied, and the mean stays."""

from __future__ import annotations

import pytest
import torch

from worker.render.emphasis import emphasized


def encoding(dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return (torch.randn(77, 16, generator=torch.Generator().manual_seed(0)) - 0.2).to(dtype)


def test_rows_are_multiplied_and_the_mean_is_what_it_was() -> None:
    given = encoding()
    weights = torch.linspace(-0.5, 2.0, 77)
    found = emphasized(given, weights)
    torch.testing.assert_close(found.mean(), given.mean())
    ratios = found / given / weights[:, None]
    torch.testing.assert_close(ratios, ratios[:1, :1].expand_as(ratios), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_weights_of_one_change_nothing(dtype: torch.dtype) -> None:
    given = encoding(dtype)
    found = emphasized(given, torch.ones(77))
    assert found.dtype == dtype
    assert torch.equal(found, given)


def test_half_precision_is_rounded_once_at_the_end() -> None:
    given, weights = encoding(torch.float16), torch.linspace(0.3, 1.7, 77)
    assert torch.equal(emphasized(given, weights), emphasized(given.float(), weights).half())


def test_a_mean_of_zero_leaves_the_weighted_encoding_as_it_is() -> None:
    given = torch.tensor([[1.0, 3.0], [2.0, 2.0]])
    for weights in ([1.0, -1.0], [0.0, 0.0]):
        found = emphasized(given, torch.tensor(weights))
        assert torch.equal(found, given * torch.tensor(weights)[:, None])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_mean_that_is_only_rounding_is_not_restored(dtype: torch.dtype) -> None:
    """What a layer norm without bias gives: the means of all rows are zero."""
    given = torch.nn.functional.layer_norm(encoding(), (16,)).to(dtype)
    weights = torch.linspace(0.5, 1.5, 77)
    assert torch.equal(emphasized(given, weights), (given.float() * weights[:, None]).to(dtype))
