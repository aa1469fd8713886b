"""A triton set's components: our networks with the set's weights and its compiled kernels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from engines.backends.protocol import Clipping, Engine, Runtime
from engines.backends.stages import CONSTANTS
from engines.backends.triton import hopper
from engines.backends.triton.components import ENGINES, ControlNetEngine, UNetEngine, predict
from engines.backends.triton.kernel_cache import install_kernels
from engines.backends.triton.kernel_keys import check_kernels
from engines.backends.triton.operands import Observer
from engines.backends.triton.parameters import Parameters
from engines.backends.triton.precisions import QUANTIZED_COMPONENTS
from engines.device import Placement
from engines.manifest import Manifest

# Up to this many latent cells in a batch, the ControlNet runs beside the U-Net's encoder; more fill the GPU by
# themselves. On an H200: 12% a step at 1 x 64 x 64, 3% at 8 x 32 x 48, nothing at 8 x 64 x 64.
SIDE_BY_SIDE = 16384


class TritonRuntime(Runtime):
    """Opens components from the set's weights; `device` is a GPU, except in tests."""

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device) -> None:
        self._folder, self._manifest, self._device = folder, manifest, device
        self._observers: dict[str, dict[str, Observer]] | None = (
            None  # by component and layer; None: nothing is observed
        )
        self._side = _side_stream(device) if device.type == "cuda" else None

    @torch.inference_mode()
    def open(self, name: str) -> Engine:
        """Read the weights, without diffusers, and lay them out for the kernels."""
        (stored,) = self._manifest.components[name].stages[CONSTANTS].files
        parameters = Parameters.load(self._folder / stored, self._device)
        if self._observers is not None:
            parameters = replace(parameters, observers=self._observers.setdefault(name, {}))
        return ENGINES[name](parameters)

    def watch(self) -> None:
        """Components that are opened from now on count what their quantized layers clip."""
        self._observers = {}

    def clipped(self) -> dict[str, Clipping]:
        """What was counted, by component."""
        found = {}
        for component, observers in (self._observers or {}).items():
            counted = {layer: (int(seen.clipped), seen.values) for layer, seen in observers.items() if seen.values}
            if component in QUANTIZED_COMPONENTS and counted:
                found[component] = _clipping(counted)
        return found

    def predict(self, controlnet: Engine, unet: Engine, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ControlNet and U-Net, on two streams where neither fills the GPU; the join scales the controls."""
        assert isinstance(controlnet, ControlNetEngine), controlnet
        assert isinstance(unet, UNetEngine), unet
        noisy = inputs["x_noisy"]
        if self._side is None or noisy.numel() // (2 * noisy.shape[1]) > SIDE_BY_SIDE:
            return predict(controlnet, unet, inputs)
        stream = torch.cuda.current_stream(self._device)
        self._side.wait_stream(stream)
        try:
            with torch.cuda.stream(self._side):
                controls = controlnet.controls(inputs)
            encoded = unet.encode(inputs)
        finally:  # also when memory runs out: CUDA does not end a capture while one of its streams has not joined
            stream.wait_stream(self._side)
        return unet.decode(encoded, controls, inputs["control_scales"])


def _clipping(counted: Mapping[str, tuple[int, int]]) -> Clipping:
    clipped, values = (sum(numbers) for numbers in zip(*counted.values(), strict=True))
    worst = max(counted, key=lambda layer: counted[layer][0] / counted[layer][1])
    return Clipping(clipped, values, worst, counted[worst][0] / counted[worst][1])


@cache
def _side_stream(device: torch.device) -> torch.cuda.Stream:
    """One for all sets of a process: torch keeps freed memory by stream, in a pool of graphs too."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def open_set(folder: Path, manifest: Manifest, placement: Placement) -> TritonRuntime:
    """The runtime of a set in `folder`; Triton finds the set's kernels from now on.

    Raises:
        BackendUnavailable: this GPU needs a package that is not installed.
        EngineSetRefused: other code compiled the kernels, and there is no C compiler to compile them again.
    """
    if placement.device.type == "cuda":
        hopper.check_installed(placement.device)
        check_kernels(folder, manifest)
        archives = [name for part in manifest.components.values() for name in part.stages["kernels"].files]
        install_kernels([folder / name for name in archives])
    return TritonRuntime(folder, manifest, placement.device)
