"""Weights of tokens, applied to their encodings."""

from __future__ import annotations

import torch


def emphasized(encoding: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The encoding of one chunk, [77, width], each token's row times its weight, float32 [77].

    The mean over all values is then what it was before: `Original` emphasis of AUTOMATIC1111's web interface
    (modules/sd_emphasis.py). Computed in float32. Where the weighted mean is zero, nothing can restore it, and the
    weighted encoding stays as it is.
    """
    values = encoding.float()
    weighted = values * weights.unsqueeze(-1)
    mean = weighted.mean()
    restoring = torch.where(mean == 0, torch.ones_like(mean), values.mean() / mean)
    return (weighted * restoring).to(encoding.dtype)
