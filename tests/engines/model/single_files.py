"""Networks of single files, as a test names them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.model.locate import find_weights
from engines.model.networks import load_network
from tests.engines.original import PREFIX, Original

PARTS = ("text_encoder", "unet", "vae", "controlnet")
MODEL = ("text_encoder", "unet", "vae")
# A tensor of each part, by its name in the file.
TENSOR = {
    "text_encoder": "text_model.encoder.layers.1.mlp.fc1.weight",
    "unet": "output_blocks.3.1.transformer_blocks.0.attn2.to_k.weight",
    "vae": "decoder.mid.attn_1.q.weight",
    "controlnet": "zero_convs.3.0.weight",
}
Tensors = dict[str, Tensor]


def of(original: Original, *parts: str, bare: bool = False) -> Tensors:
    """The tensors of some parts; `bare`: without the part's prefix."""
    prefixes = tuple(PREFIX[part] for part in parts)
    found = {name: tensor for name, tensor in original.tensors.items() if name.startswith(prefixes)}
    return {name.removeprefix(prefixes[0]): tensor for name, tensor in found.items()} if bare else found


def load(part: str, model: Path, original: Original, *, control: Path | None = None, config: Path | None = None) -> Any:
    controlnet = None if control is None else str(control)
    described = None if config is None else str(config)
    weights = find_weights(str(model), controlnet, tokenizer=str(original.tokenizer), original_config=described)
    return load_network(part, weights, torch.float32)


def assert_original(part: str, network: Any, original: Original) -> None:
    expected = load_network(part, find_weights(str(original.model), str(original.controlnet)), torch.float32)
    state = network.state_dict()
    assert list(state) == list(expected.state_dict())
    for name, tensor in expected.state_dict().items():
        assert torch.equal(state[name], tensor), name
    for key in (
        "attention_head_dim",
        "num_attention_heads",
        "cross_attention_dim",
        "conditioning_embedding_out_channels",
    ):
        assert _plain(getattr(network.config, key, None)) == _plain(getattr(expected.config, key, None)), key


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple | list) else value
