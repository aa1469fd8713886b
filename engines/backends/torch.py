"""The torch backend: the networks themselves, eager. What verify and bench compare the others with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from engines.engine_set import DTYPES, Backend, Engine, Placement
from engines.manifest import Manifest
from engines.model import networks as models
from engines.model.locate import Weights
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


class TorchBackend(Backend):
    """Opens components from the set's copy of the weights."""

    def __init__(self, weights: Weights, manifest: Manifest, placement: Placement) -> None:
        self._weights = weights
        self._manifest = manifest
        self._device = placement.device

    def open(self, name: str) -> Engine:
        """Read the network that the component is made from."""
        dtype = DTYPES[self._manifest.precision]
        module = models.load_component(name, self._weights, dtype).to(self._device)
        return TorchEngine(module, self._manifest.components[name].spec)


def open_backend(folder: Path, manifest: Manifest, placement: Placement) -> TorchBackend:
    """The backend of a set in `folder`; `placement.threads` sets torch's threads for the whole process."""
    if placement.threads is not None and placement.device.type == "cpu":
        torch.set_num_threads(placement.threads)
    return TorchBackend(Weights(folder / "weights", folder / "weights" / "controlnet"), manifest, placement)
