"""Layers in e4m3: which of a component's layers, and their weights with one scale an output channel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from engines.backends.triton.components import ENGINES
from engines.backends.triton.operands import LARGEST, QUANTIZED, Observer
from engines.backends.triton.parameters import INPUT_SCALE, WEIGHT_SCALE, Parameters
from engines.backends.triton.precisions import QUANTIZED_COMPONENTS

# The unit that copies tiles takes rows of whole 16 bytes.
ALIGNED = 16


def layer_names(component: str, parameters: Parameters) -> tuple[str, ...]:
    """The layers of a component that can be quantized: those whose input a norm or a gate writes."""
    if component not in QUANTIZED_COMPONENTS:
        return ()
    found: dict[str, Observer] = {}
    ENGINES[component](replace(parameters, observers=found))
    return aligned(parameters, found)


def aligned(parameters: Parameters, names: Iterable[str]) -> tuple[str, ...]:
    """The layers whose channels the product can take."""
    weights = ((name, parameters.tensors[f"{name}.weight"]) for name in names)
    return tuple(name for name, weight in weights if all(channels % ALIGNED == 0 for channels in weight.shape[:2]))


def quantized(parameters: Parameters, scales: Mapping[str, float]) -> Parameters:
    """The parameters with these layers' weights in e4m3; `scales` are what the layers' inputs are divided by."""
    tensors = dict(parameters.tensors)
    for name, scale in scales.items():
        weight, factors = quantized_weight(tensors[f"{name}.weight"])
        tensors[f"{name}.weight"], tensors[f"{name}.{WEIGHT_SCALE}"] = weight, factors
        tensors[f"{name}.{INPUT_SCALE}"] = torch.tensor(scale, dtype=torch.float32)
    return replace(parameters, tensors=tensors)


def quantized_weight(weight: Tensor) -> tuple[Tensor, Tensor]:
    """[out, in] or [out, in, h, w] -> e4m3 [out, h*w, in], and the scale of each output, float32 [out]."""
    by_tap = weight.float().flatten(2) if weight.dim() == 4 else weight.float().unsqueeze(2)
    scale = by_tap.abs().amax((1, 2)).clamp(min=torch.finfo(torch.float32).tiny * LARGEST) / LARGEST
    scaled = (by_tap / scale.view(-1, 1, 1)).clamp(-LARGEST, LARGEST)
    return scaled.transpose(1, 2).contiguous().to(QUANTIZED), scale
