"""Random LoRAs for a tiny model, in every naming that trainers write."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from engines.model.locate import find_weights
from engines.model.networks import load_network
from engines.source import NO_ADDITIONS, AdditionNames
from tests.models import tiny_model

# One layer of each kind that trainers choose, by diffusers' names.
UNET = (
    "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.2.attentions.0.transformer_blocks.0.attn2.to_k",
    "mid_block.attentions.0.transformer_blocks.0.attn1.to_v",
    "up_blocks.1.attentions.2.transformer_blocks.0.attn2.to_out.0",
)
UNET_FEED = (
    "up_blocks.3.attentions.0.transformer_blocks.0.ff.net.0.proj",
    "down_blocks.1.attentions.0.proj_in",
    "mid_block.attentions.0.proj_out",
)
TEXT = ("encoder.layers.0.self_attn.q_proj", "encoder.layers.1.self_attn.out_proj")
TEXT_FEED = ("encoder.layers.1.mlp.fc1",)
LAYERS = {"unet": (*UNET, *UNET_FEED), "text_encoder": (*TEXT, *TEXT_FEED)}


@dataclass(frozen=True)
class Pair:
    """A layer's LoRA: down [rank, in], up [out, rank], and alpha, None where the file names none."""

    down: Tensor
    up: Tensor
    alpha: float | None

    @property
    def difference(self) -> Tensor:
        rank = self.down.shape[0]
        return (rank if self.alpha is None else self.alpha) / rank * (self.up @ self.down)


Pairs = dict[tuple[str, str], Pair]  # by part and layer


def tiny_network(part: str, additions: AdditionNames = NO_ADDITIONS) -> Any:
    """A network of the tiny model, float32."""
    weights = find_weights(str(tiny_model() / "model"), str(tiny_model() / "controlnet"), additions=additions)
    return load_network(part, weights, torch.float32)


def module_of(network: nn.Module, layer: str) -> Any:
    """transformers' versions differ by a level."""
    return network.get_submodule(layer if not hasattr(network, "text_model") else f"text_model.{layer}")


def random_pairs(
    networks: Mapping[str, nn.Module],
    layers: Mapping[str, Sequence[str]] = LAYERS,
    *,
    seed: int = 0,
    alphas: bool | float = True,
    strength: float = 0.5,
) -> Pairs:
    """A LoRA with another rank in each layer, and another alpha, one for all, or none. `strength`: beside weights."""
    generator = torch.Generator().manual_seed(seed)
    pairs: Pairs = {}
    for part, names in layers.items():
        for i, name in enumerate(names):
            weight = module_of(networks[part], name).weight
            rank = 2 + i % 3
            down = torch.randn(rank, weight.shape[1], generator=generator) / weight.shape[1] ** 0.5
            up = torch.randn(weight.shape[0], rank, generator=generator) * strength * float(weight.std())
            alpha = 1.0 + i if alphas is True else alphas or None
            pairs[part, name] = Pair(down, up, alpha)
    return pairs


def _is_projection(layer: str) -> bool:
    return layer.endswith(("proj_in", "proj_out")) and "layers" not in layer


def _shaped(layer: str, tensor: Tensor) -> Tensor:
    """The transformers' projections are 1x1 convolutions."""
    return tensor[:, :, None, None] if _is_projection(layer) else tensor


def kohya(pairs: Pairs) -> dict[str, Tensor]:
    """As kohya's trainer names them."""
    tensors: dict[str, Tensor] = {}
    for (part, layer), pair in pairs.items():
        prefix = "lora_unet_" if part == "unet" else "lora_te_text_model_"
        name = prefix + layer.replace(".", "_")
        tensors |= _named(name, layer, pair, ("lora_down.weight", "lora_up.weight", "alpha"))
    return tensors


def original_blocks(pairs: Pairs) -> dict[str, Tensor]:
    """kohya's names with the original code's blocks, of layers in the U-Net's attentions."""
    tensors: dict[str, Tensor] = {}
    for (_, layer), pair in pairs.items():
        way, level, number, rest = re.fullmatch(r"(\w+?)_blocks?\.(?:(\d)\.)?attentions\.(\d)\.(.+)", layer).groups()  # type: ignore[union-attr]
        first = 3 * int(level or 0) + int(number)
        block = {"down": f"input_blocks_{first + 1}_1", "up": f"output_blocks_{first}_1", "mid": "middle_block_1"}[way]
        name = f"lora_unet_{block}_{rest.replace('.', '_')}"
        tensors |= _named(name, layer, pair, ("lora_down.weight", "lora_up.weight", "alpha"))
    return tensors


def peft(pairs: Pairs) -> dict[str, Tensor]:
    """As diffusers writes them with peft."""
    return _diffusers(pairs, ("lora_A.weight", "lora_B.weight"))


def before_peft(pairs: Pairs) -> dict[str, Tensor]:
    """As diffusers wrote them before peft."""
    return _diffusers(pairs, ("lora.down.weight", "lora.up.weight"))


def first_files(pairs: Pairs) -> dict[str, Tensor]:
    """As diffusers' first trainer wrote them: attention alone, no prefix in the U-Net's names."""
    tensors: dict[str, Tensor] = {}
    for (part, layer), pair in pairs.items():
        path, last = layer.removesuffix(".0").rsplit(".", 1)
        if part == "unet":
            tensors[f"{path}.processor.{last}_lora.down.weight"] = pair.down
            tensors[f"{path}.processor.{last}_lora.up.weight"] = pair.up
        else:
            old = f"text_encoder.text_model.{path}.to_{last.removesuffix('_proj')}_lora"
            tensors |= {f"{old}.down.weight": pair.down, f"{old}.up.weight": pair.up}
    return tensors


def _diffusers(pairs: Pairs, endings: tuple[str, str]) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for (part, layer), pair in pairs.items():
        name = f"unet.{layer}" if part == "unet" else f"text_encoder.text_model.{layer}"
        tensors |= _named(name, layer, pair, (*endings, ""))
    return tensors


def _named(name: str, layer: str, pair: Pair, endings: tuple[str, str, str]) -> dict[str, Tensor]:
    down, up, alpha = endings
    tensors = {f"{name}.{down}": _shaped(layer, pair.down), f"{name}.{up}": _shaped(layer, pair.up)}
    if pair.alpha is not None and alpha:
        tensors[f"{name}.{alpha}"] = torch.tensor(pair.alpha)
    return tensors


def save(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> Path:
    """As the file's ending says."""
    if path.suffix == ".safetensors":
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata=metadata)
    else:
        torch.save(dict(tensors), path)
    return path


Naming = Callable[[Pairs], dict[str, Tensor]]
