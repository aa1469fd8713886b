"""Attention as onnxruntime's own operator, for graphs that only onnxruntime runs.

Exported as torch traces it, attention is MatMul, Softmax, MatMul, and writes the whole matrix of scores to memory
between them: 64 MB a layer for eight rows of 32x32 latents with two heads. MultiHeadAttention computes it in pieces
that stay in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


class _MultiHeadAttention(torch.autograd.Function):
    """query [R,S,C], key and value [R,L,C] -> [R,S,C], scaled by 1 / sqrt(C / heads)."""

    @staticmethod
    def forward(_context: Any, query: Tensor, key: Tensor, value: Tensor, heads: int) -> Tensor:
        """What torch computes while it traces."""
        query, key, value = (x.view(*x.shape[:2], heads, -1).transpose(1, 2) for x in (query, key, value))
        return functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)

    @staticmethod
    def symbolic(graph: Any, query: Any, key: Any, value: Any, heads: int) -> Any:
        """The operator in the exported graph."""
        output = graph.op("com.microsoft::MultiHeadAttention", query, key, value, num_heads_i=heads)
        output.setType(query.type())
        return output


class FusedAttention:
    """A diffusers attention processor for a transformer block's self- and cross-attention."""

    def __call__(
        self, attention: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_unused: Any
    ) -> Tensor:
        """hidden_states [R,S,C] -> the same shape."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key, value = attention.to_q(hidden_states), attention.to_k(source), attention.to_v(source)
        attend: Any = _MultiHeadAttention.apply
        output: Tensor = attention.to_out[0](attend(query, key, value, attention.heads))
        return output


def fuse_attention(module: nn.Module) -> int:
    """Replace every attention of `module`'s transformer blocks by the fused operator; returns how many there are.

    The decoder's one attention layer, which has a norm and a residual of its own, stays as it is.
    """
    from diffusers.models.attention import BasicTransformerBlock

    blocks = [block for block in module.modules() if isinstance(block, BasicTransformerBlock)]
    layers: list[Any] = [layer for block in blocks for layer in (block.attn1, block.attn2) if layer is not None]
    for layer in layers:
        layer.set_processor(FusedAttention())
    return len(layers)
