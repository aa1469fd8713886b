"""Weights of tokens, applied to their encodings."""

from __future__ import annotations

import torch

# A mean that is a smaller share than this of the mean size of the values is rounding. To divide by it would be noise.
SMALLEST_MEAN = 1e-5


def emphasized(encoding: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The encoding of one chunk, [77, width], each token's row times its weight, float32 [77].

    The mean over all values is then what it was before: `Original` emphasis of AUTOMATIC1111's web interface
    (modules/sd_emphasis.py). Computed in float32. Where one of the two means is zero but for rounding, as without the
    final layer norm's bias, there is no mean to restore, and the weighted encoding stays as it is.
    """
    values = encoding.float()
    weighted = values * weights.unsqueeze(-1)
    before, after = values.mean(), weighted.mean()
    has_mean = (before.abs() > SMALLEST_MEAN * values.abs().mean()) & (
        after.abs() > SMALLEST_MEAN * weighted.abs().mean()
    )
    restoring = torch.where(has_mean, before / after, torch.ones_like(before))
    return (weighted * restoring).to(encoding.dtype)
