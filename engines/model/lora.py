"""LoRAs merged into a network while it is read: weight + w * alpha / rank * up @ down, in float32.

The arithmetic is that of diffusers with peft (`load_lora_weights`, `fuse_lora`), which tests compare it with. It is
done here because those leave out what does not fit with a log line, need a whole pipeline in memory, and round to the
pipeline's precision before they add. Here every tensor of a file is merged, or the file is refused.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import ModelRefused
from engines.model.additions import Lora
from engines.model.fill import Changes
from engines.model.look_alikes import LORA, look_of
from engines.model.lora_names import ADVICE, Half, advice_on, layer_words, other_kind, place_of
from engines.model.tensor_files import metadata_of, open_tensors

# Convolutions of 1x1 around a transformer: plain LoRAs of SD1.5 have them.
_PROJECTIONS = ("proj_in", "proj_out")
_KINDS = (nn.Linear, nn.Conv2d)
_METADATA = "lora_adapter_metadata"  # diffusers' entry: peft's configuration as JSON
# How a LoRA may begin (peft's init_lora_weights, in any case). Others, such as pissa, change the weights beside it.
_STARTS = (None, True, False, "gaussian", "eva", "orthogonal", "mica")
_TEXT_MODEL = "text_model."


@dataclass
class _Layer:
    """The tensors of one layer, and their names in the file."""

    tensors: dict[Half, Tensor] = field(default_factory=dict)
    names: dict[Half, str] = field(default_factory=dict)


def lora_changes(loras: Sequence[Lora], part: str, network: nn.Module) -> Changes:
    """What LoRAs change in a network (which needs no values): parameter's name -> value with the LoRAs added.

    Raises:
        ModelRefused: a file cannot be read, is of another kind, or has a tensor without a place or of another size.
    """
    changes: dict[str, list[Callable[[], Tensor]]] = {}
    for lora in loras:
        for parameter, difference in _differences(lora, part, network):
            changes.setdefault(parameter, []).append(difference)
    return {name: partial(_added, tuple(differences)) for name, differences in changes.items()}


def _added(differences: Sequence[Callable[[], Tensor]], value: Tensor) -> Tensor:
    for difference in differences:
        value = value + difference().reshape(value.shape)
    return value


def _differences(lora: Lora, part: str, network: nn.Module) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    layers = _read(lora.path, part)
    modules = {layer_words(name): name for name, module in network.named_modules() if isinstance(module, _KINDS)}
    scaling = _scaling_of(lora.path, part)
    for words, layer in layers.items():
        name = modules.get(words)
        module = None if name is None else network.get_submodule(name)
        _refuse_convolution(lora.path, layer, module, words)
        if name is None or module is None:
            first = next(iter(layer.names.values()))
            raise ModelRefused(f"{lora.path} cannot be merged: {first} has no place in SD1.5's {part}; {ADVICE}")
        down, up = _pair(lora.path, layer, module.weight)  # type: ignore[arg-type]
        scale = lora.weight * scaling(name, layer, down.shape[0])
        yield f"{name}.weight", partial(_product, down, up, scale)


def _product(down: Tensor, up: Tensor, scale: float) -> Tensor:
    return scale * (up.to(torch.float32) @ down.to(torch.float32))


def _read(path: Path, part: str) -> dict[str, _Layer]:
    """The layers of one network in a file, which is looked at as a whole."""
    file = open_tensors(path)
    places = {name: place_of(name) for name in file.names}
    look = look_of(file.names) or ""
    for name, place in places.items():
        kind = other_kind(name)
        if kind is not None:
            raise ModelRefused(f"{path} is {kind}: it has {name}; {advice_on(kind)}")
        if place is None and (any(places.values()) or look.endswith(LORA)):
            raise ModelRefused(f"{path} cannot be merged: {name} has no place in SD1.5's networks; {ADVICE}")
    if not any(places.values()):
        hint = f"; {look}" if look else ""
        raise ModelRefused(f"{path} is not a LoRA: it has no pairs of tensors for layers{hint}")
    wanted = {name: place for name, place in places.items() if place is not None and place.part == part}
    tensors = file.read(lambda name: name in wanted)
    layers: dict[str, _Layer] = {}
    for name, place in wanted.items():
        layer = layers.setdefault(place.layer, _Layer())
        if name not in tensors or place.half in layer.names:
            other = layer.names.get(place.half)
            problem = "is not a tensor" if other is None else f"and {other} are for the same layer"
            raise ModelRefused(f"{path} cannot be merged: {name} {problem}; {ADVICE}")
        layer.names[place.half] = name
        layer.tensors[place.half] = _plain(path, name, tensors[name], alpha=place.half == "alpha")
    return layers


def _plain(path: Path, name: str, tensor: Tensor, *, alpha: bool) -> Tensor:
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.layout != torch.strided or not (alpha or tensor.is_floating_point()):
        raise ModelRefused(f"{path} cannot be merged: {name} holds no floating-point numbers ({kind})")
    if alpha and tensor.numel() != 1:
        raise ModelRefused(f"{path} cannot be merged: {name} is {tuple(tensor.shape)}, not one number")
    if not torch.isfinite(tensor.to(torch.float32)).all():
        raise ModelRefused(f"{path} cannot be merged: {name} has values that are NaN or infinite; get it again")
    return tensor


def _refuse_convolution(path: Path, layer: _Layer, module: nn.Module | None, words: str) -> None:
    """LoCons are LoRAs of convolutions too: of 3x3 ones, which show in the file, or of 1x1 ones in resnets."""
    wide = any(tensor.shape[2:].numel() > 1 for tensor in layer.tensors.values())
    if wide or (isinstance(module, nn.Conv2d) and not words.endswith(_PROJECTIONS)):
        first = next(iter(layer.names.values()))
        raise ModelRefused(f"{path} is a LoCon: it has {first}, which changes a convolution; {ADVICE}")


def _pair(path: Path, layer: _Layer, weight: Tensor) -> tuple[Tensor, Tensor]:
    """down [rank, in] and up [out, rank] of a layer whose weight is [out, in] or [out, in, 1, 1]."""
    if missing := [half for half in ("down", "up") if half not in layer.tensors]:
        first = next(iter(layer.names.values()))
        raise ModelRefused(
            f"{path} cannot be merged: beside {first}, the layer's {missing[0]} matrix is missing; get it again"
        )
    down, up = layer.tensors["down"], layer.tensors["up"]
    rank = down.shape[0] if down.dim() > 1 else 0
    fits = rank > 0 and up.dim() > 1 and up.shape[:2] == (weight.shape[0], rank) and down.shape[1] == weight.shape[1]
    if not fits:
        raise ModelRefused(
            f"{path} was made for another model: {layer.names['down']} is {tuple(down.shape)} and the layer's other "
            f"half {tuple(up.shape)}, for a weight of {tuple(weight.shape[:2])} (a LoRA "
            "for SD1.5 is needed: those for SDXL, SD 2 and Flux do not fit)"
        )
    return down.flatten(1), up.flatten(1)


def _scaling_of(path: Path, part: str) -> Callable[[str, _Layer, int], float]:
    """A layer's module, tensors and rank -> alpha / rank; 1 where a file names no alpha, as in diffusers.

    The alpha is a tensor beside the pair, or in peft's configuration among the file's metadata.
    """
    config = _peft_config(path, part)

    def scaling(module: str, layer: _Layer, rank: int) -> float:
        if "alpha" in layer.tensors:
            return float(layer.tensors["alpha"]) / rank
        alphas = config.get("alpha_pattern") or {}
        named = next((alphas[key] for key in alphas if _fits(key, module)), None)
        alpha = config.get("lora_alpha") if named is None else named
        if alpha is None:
            return 1.0
        return float(alpha) / (math.sqrt(rank) if config.get("use_rslora") else rank)

    return scaling


def _fits(key: str, module: str) -> bool:
    """Whether a key of peft's patterns, a regular expression for the end of a name, is for a module.

    `module` is the installed library's name, which has the level `text_model` or lacks it; the file's may be the other.
    """
    bare = module.removeprefix(_TEXT_MODEL)
    return any(_pattern(key).match(name) for name in (bare, _TEXT_MODEL + bare))


def _pattern(key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({key})$")


def _peft_config(path: Path, part: str) -> Mapping[str, Any]:
    try:
        whole = json.loads(metadata_of(path).get(_METADATA, "{}"))
        config = _of_part(whole, part)
        patterns = config.get("alpha_pattern") or {}
        numbers = [config.get("lora_alpha", 0), *patterns.values()]
        assert all(isinstance(number, int | float) and math.isfinite(number) for number in numbers)
        assert all(map(_pattern, patterns))
    except (ValueError, AttributeError, AssertionError, OverflowError, RecursionError, re.error) as error:
        raise ModelRefused(f"{path} cannot be merged: its metadata {_METADATA} is not peft's configuration") from error
    if config.get("use_dora"):
        raise ModelRefused(f"{path} is a DoRA: its metadata {_METADATA} says use_dora; {ADVICE}")
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in _STARTS:
        raise ModelRefused(
            f"{path} was trained beside changed weights: its metadata {_METADATA} says init_lora_weights {start!r}; "
            f"{ADVICE}"
        )
    return config


def _of_part(whole: Mapping[str, Any], part: str) -> dict[str, Any]:
    """The fields of one network; in a file of the U-Net alone, neither they nor the tensors have a prefix."""
    prefix = f"{part}."
    own = {name.removeprefix(prefix): each for name, each in whole.items() if name.startswith(prefix)}
    return own if own or part != "unet" else {name: each for name, each in whole.items() if "." not in name}
