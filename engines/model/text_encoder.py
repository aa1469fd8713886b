"""Changes to a text encoder that was read: the vectors of further words, and layers that clip skip leaves out."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from engines.errors import ModelRefused
from engines.model.additions import Additions
from engines.model.embedding import vectors_of

_SPECIAL = 2  # of a prompt's tokens: begin and end


def adapted(network: Any, additions: Additions) -> Any:
    """transformers' CLIPTextModel with embeddings and clip skip; the same network, changed.

    Raises:
        ModelRefused: an embedding has another width, or there are not so many layers.
    """
    for embedding in additions.embeddings:
        vectors = vectors_of(embedding, network.config.max_position_embeddings - _SPECIAL)
        width = network.config.hidden_size
        if vectors.shape[1] != width:
            raise ModelRefused(
                f"{embedding.path} was made for another model: its vectors are {vectors.shape[1]} wide, and those of "
                f"this text encoder {width} (SD1.5's are 768 wide, SD 2's 1024)"
            )
        _add_rows(network, vectors)
        if not torch.isfinite(network.get_input_embeddings().weight[-len(vectors) :]).all():
            raise ModelRefused(
                f"{embedding.path} has values that are too large for float16: build with --precision fp32"
            )
    _leave_out(network, additions.clip_skip - 1)
    return network


def _add_rows(network: Any, vectors: torch.Tensor) -> None:
    table = network.get_input_embeddings()
    weight = torch.cat([table.weight, vectors.to(table.weight.dtype)])
    network.set_input_embeddings(nn.Embedding(weight.shape[0], weight.shape[1], _weight=weight))
    network.config.vocab_size = len(weight)


def _leave_out(network: Any, count: int) -> None:
    """Drop the last layers. What is left goes through the final layer norm, as with diffusers' `clip_skip=count`."""
    if count == 0:
        return
    has = network.config.num_hidden_layers
    if count >= has:
        raise ModelRefused(f"the text encoder has {has} layers: --clip-skip takes 1 (its last layer) to {has}")
    encoder = getattr(network, "text_model", network).encoder
    encoder.layers = encoder.layers[:-count]
    network.config.num_hidden_layers = has - count
