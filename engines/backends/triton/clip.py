"""CLIP's text encoder."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from engines.backends.triton import ops
from engines.backends.triton.operands import Norm
from engines.backends.triton.parameters import Parameters

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}


class Clip:
    """input_ids [N,77] -> last_hidden_state [N,77,C]: CLIP's text transformer, after its final layer norm."""

    def __init__(self, at: Parameters) -> None:
        text = at.at("text_encoder")
        text = text.at("text_model") if "text_model" in text else text
        self._tokens = text.at("embeddings", "token_embedding").weight
        self._positions = text.at("embeddings", "position_embedding").weight
        layers = text.at("encoder").each("layers")
        activation = layers[0].at("mlp").setting("activation")
        self._layers = [_Layer(layer, activation) for layer in layers]
        self._norm = text.at("final_layer_norm").norm

    def __call__(self, ids: Tensor) -> Tensor:
        """int64 -> the weights' dtype."""
        x = self._tokens[ids] + self._positions[: ids.shape[1]]
        for layer in self._layers:
            x = layer(x)
        return _layer_norm(x, self._norm)


class _Layer:
    def __init__(self, at: Parameters, activation: str) -> None:
        own, feed = at.at("self_attn"), at.at("mlp")
        self._heads = own.setting("heads")
        names = ("q_proj", "k_proj", "v_proj")
        self._weight = torch.cat([own.at(name).weight for name in names])
        self._bias = torch.cat([own.at(name)["bias"] for name in names])
        self._out, self._up, self._down = own.at("out_proj").linear, feed.at("fc1").linear, feed.at("fc2").linear
        self._norms = [at.at(f"layer_norm{i}").norm for i in (1, 2)]
        self._activation = ACTIVATIONS[activation]

    def __call__(self, x: Tensor) -> Tensor:
        parts = functional.linear(_layer_norm(x, self._norms[0]), self._weight, self._bias).chunk(3, dim=-1)
        query, key, value = (ops.by_head(part, self._heads) for part in parts)
        h = functional.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)
        x = x + functional.linear(h, *self._out)
        h = self._activation(functional.linear(_layer_norm(x, self._norms[1]), *self._up))
        return x + functional.linear(h, *self._down)


def _layer_norm(x: Tensor, norm: Norm) -> Tensor:
    return functional.layer_norm(x.float(), x.shape[-1:], norm.gamma, norm.beta, norm.eps).to(x.dtype)
