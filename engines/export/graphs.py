"""The four graphs of ControlNet's TensorRT ports, made of our networks and described by spec.py's tensors.

The ports run each half of a guided step by itself, give CONTROL_NET the edges themselves, and scale the controls
between the two engines. So their ControlNet is our hint and controlnet in one, without the scales.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from engines.check.verify import likely
from engines.export.sizes import TRACED_BATCH, Size, Sizes
from engines.model.networks import Networks, wrap
from engines.spec import ComponentSpec, Geometry, TensorSpec, component_specs

CLIP, CONTROL_NET, CONTROL_UNET, DECODER = GRAPHS = ("CLIP", "CONTROL_NET", "CONTROL_UNET", "DECODER")
# The ports' engines take whole numbers as int32, which every version of TensorRT has.
_INT32 = ("input_ids", "timestep")
_OF_TOKENS = ("input_ids", "last_hidden_state", "context")
_SHORT_PROMPT = 16


class HintedControlNet(nn.Module):
    """x_noisy, hint [N,3,8h,8w], timestep, context -> control0..control12, not scaled."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_noisy: Tensor, hint: Tensor, timestep: Tensor, context: Tensor) -> tuple[Tensor, ...]:
        """x_noisy [N,4,h,w]; timestep int32 [N]; context [N,S,C]."""
        down, mid = self.network(x_noisy, timestep, context, hint, return_dict=False)
        return (*down, mid)


@dataclass(frozen=True)
class Run:
    """One call of a graph: the sizes of its dynamic axes. `tokens` and `size` are None where the graph has no such."""

    batch: int
    tokens: int | None
    size: Size | None

    @property
    def axes(self) -> dict[str, int]:
        """N, S, h and w, as TensorSpec takes them."""
        height, width = self.size or (0, 0)
        return {"N": self.batch, "S": self.tokens or 0, "h": height // 8, "w": width // 8}


@dataclass(frozen=True)
class Graph:
    """One graph to export: its torch module in float32, its tensors, the trace, and the runs that are compared."""

    name: str
    module: nn.Module
    spec: ComponentSpec
    traced: Run
    runs: tuple[Run, ...]

    def inputs(self, run: Run) -> tuple[Tensor, ...]:
        """Seeded inputs like those of a render, in the module's order."""
        generator = torch.Generator().manual_seed(0)
        tensors = [(spec, likely(spec, spec.with_sizes(run.axes), generator)) for spec in self.spec.inputs]
        return tuple(tensor.int() if spec.dtype == "int32" else tensor for spec, tensor in tensors)


def lineage_graphs(networks: Networks, geometry: Geometry, sizes: Sizes) -> list[Graph]:
    """The graphs in the order of GRAPHS; their modules share the networks' weights."""
    modules: dict[str, nn.Module] = {
        CLIP: wrap("clip", networks.text_encoder),
        CONTROL_NET: HintedControlNet(networks.controlnet),
        CONTROL_UNET: wrap("unet", networks.unet),
        DECODER: wrap("decoder", networks.vae),
    }
    specs = lineage_specs(geometry, sizes.fixed)
    return [_graph(name, modules[name], specs[name], sizes, geometry.context_length) for name in GRAPHS]


def _graph(name: str, module: nn.Module, spec: ComponentSpec, sizes: Sizes, context_length: int) -> Graph:
    """CLIP is also run with a short prompt; the others, whose axis has no end, with a prompt of two pieces."""
    other_length = min(_SHORT_PROMPT, context_length) if name == CLIP else 2 * context_length
    runs = []
    for batch, size in sizes.runs:
        tokens = context_length if batch == 1 else other_length
        runs.append(Run(batch, None if name == DECODER else tokens, None if name == CLIP else size))
    traced = Run(TRACED_BATCH, runs[0].tokens, None if name == CLIP else sizes.traced)
    return Graph(name, module, spec, traced, tuple(dict.fromkeys(runs)))


def lineage_specs(geometry: Geometry, fixed: Size | None = None) -> dict[str, ComponentSpec]:
    """The tensors of the four graphs; `fixed` makes numbers of all axes that depend on the picture's size."""
    ours = component_specs(geometry)
    x_noisy, timestep, context = ours["unet"].inputs[:3]
    (hint,) = ours["hint"].inputs
    tables: Mapping[str, tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]] = {
        CLIP: (ours["clip"].inputs, ours["clip"].outputs),
        CONTROL_NET: ((x_noisy, hint, timestep, context), ours["controlnet"].outputs),
        CONTROL_UNET: (ours["unet"].inputs, ours["unet"].outputs),
        DECODER: (ours["decoder"].inputs, ours["decoder"].outputs),
    }
    return {
        name: ComponentSpec(
            name=name,
            inputs=tuple(_tensor(tensor, fixed) for tensor in inputs),
            outputs=tuple(_tensor(tensor, fixed) for tensor in outputs),
        )
        for name, (inputs, outputs) in tables.items()
    }


def _tensor(ours: TensorSpec, fixed: Size | None) -> TensorSpec:
    shape = tuple("N" if dimension == "R" else dimension for dimension in ours.shape)
    if ours.name in _OF_TOKENS:
        shape = (shape[0], "S", *shape[2:])
    tensor = TensorSpec(name=ours.name, shape=shape, dtype="int32" if ours.name in _INT32 else ours.dtype)
    if fixed is None:
        return tensor
    numbers = tensor.with_sizes(Run(1, 1, fixed).axes)
    kept = [old if old in ("N", "S") else new for old, new in zip(shape, numbers, strict=True)]
    return tensor.model_copy(update={"shape": tuple(kept)})
