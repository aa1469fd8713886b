"""A torch set's components: torch modules, run eagerly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from engines.backends.protocol import Engine, Runtime
from engines.device import Placement, dtype_of
from engines.manifest import Manifest
from engines.model.locate import Weights
from engines.model.networks import ComponentReader
from engines.spec import ComponentSpec


class TorchEngine:
    """One module as an Engine."""

    def __init__(self, module: nn.Module, spec: ComponentSpec) -> None:
        self._module = module
        self._inputs = [tensor.name for tensor in spec.inputs]
        self._outputs = [tensor.name for tensor in spec.outputs]

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run eagerly."""
        outputs = self._module(*(inputs[name] for name in self._inputs))
        if isinstance(outputs, Tensor):
            outputs = (outputs,)
        return dict(zip(self._outputs, outputs, strict=True))


class TorchRuntime(Runtime):
    """Opens components from the set's copy of the weights."""

    def __init__(self, weights: Weights, manifest: Manifest, placement: Placement) -> None:
        self._reader = ComponentReader(weights, dtype_of(manifest.precision))
        self._manifest = manifest
        self._device = placement.device

    def open(self, name: str) -> Engine:
        """Read the network that the component is part of."""
        return TorchEngine(self._reader.read(name).to(self._device), self._manifest.components[name].spec)


def open_set(folder: Path, manifest: Manifest, placement: Placement) -> TorchRuntime:
    """The runtime of a set in `folder`; `placement.threads` sets torch's threads for the whole process."""
    if placement.threads is not None and placement.device.type == "cpu":
        torch.set_num_threads(placement.threads)
    return TorchRuntime(Weights(folder / "weights", folder / "weights" / "controlnet"), manifest, placement)
