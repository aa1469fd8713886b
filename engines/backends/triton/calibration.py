"""The scales of quantized layers' inputs: from pictures drawn in float16 with the set's own model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from engines.backends.protocol import Engine
from engines.backends.triton.components import ENGINES, ControlNetEngine, UNetEngine, predict
from engines.backends.triton.operands import LARGEST, Observer
from engines.backends.triton.parameters import Parameters
from engines.backends.triton.precisions import QUANTIZED_COMPONENTS
from engines.backends.triton.quantize import aligned
from engines.errors import BuildFailed
from engines.noise_schedule import NoiseSchedule
from engines.sampler.sample import sample
from engines.sampler.subjects import Subject
from engines.spec import Geometry

# Scales leave room for inputs this much larger than the largest seen: e4m3 keeps its relative precision there.
MARGIN = 1.5
STEPS = 20
Scales = dict[str, dict[str, float]]  # by component and layer


class WatchedNetworks:
    """The networks as an engine set for the sampling loop, with observers of the layers that can be quantized."""

    def __init__(
        self,
        parameters: Mapping[str, Parameters],
        *,
        tokenizer_path: Path,
        geometry: Geometry,
        noise_schedule: NoiseSchedule,
        device: torch.device,
    ) -> None:
        self.tokenizer_path, self.geometry, self.noise_schedule = tokenizer_path, geometry, noise_schedule
        self.device, self.io_dtype = device, torch.float16
        self.observers: dict[str, dict[str, Observer]] = {name: {} for name in QUANTIZED_COMPONENTS}
        self._engines: dict[str, Engine] = {
            name: ENGINES[name](replace(each, observers=self.observers.get(name))) for name, each in parameters.items()
        }

    def engine(self, name: str) -> Engine:
        """One component's callable."""
        return self._engines[name]

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """ControlNet and U-Net, one after the other."""
        controlnet, unet = self._engines["controlnet"], self._engines["unet"]
        assert isinstance(controlnet, ControlNetEngine), controlnet
        assert isinstance(unet, UNetEngine), unet
        return predict(controlnet, unet, inputs)


def calibrated(networks: WatchedNetworks, parameters: Mapping[str, Parameters], subjects: Sequence[Subject]) -> Scales:
    """Draw the subjects, and give each layer the scale of the largest input that it met.

    Raises:
        BuildFailed: an input was not finite.
    """
    for subject in subjects:
        sample(networks, subject, steps=STEPS)
    return {component: _scales(component, networks, parameters[component]) for component in QUANTIZED_COMPONENTS}


def _scales(component: str, networks: WatchedNetworks, parameters: Parameters) -> dict[str, float]:
    observers, scales = networks.observers[component], {}
    for name in aligned(parameters, observers):
        peak = float(observers[_reader(name)].peak)
        if not 0 <= peak < float("inf"):
            raise BuildFailed(f"calibration met values that are not finite before {component}'s layer {name}")
        scales[name] = max(peak, 1e-6) * MARGIN / LARGEST
    return scales


def _reader(name: str) -> str:
    """The layer that was watched: keys and values read what queries read, and are one product with them."""
    stem, _, last = name.rpartition(".")
    return f"{stem}.to_q" if last in ("to_k", "to_v") else name
