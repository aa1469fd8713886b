"""Make a component's constants with quantized layers: calibrate once for all components, quantize, write."""

from __future__ import annotations

from pathlib import Path

import torch

from engines.backends.recipe import BuildContext, Recipe
from engines.backends.stages import CONSTANTS
from engines.backends.triton.calibration import Scales, WatchedNetworks, calibrated
from engines.backends.triton.kernel_cache import empty_cache
from engines.backends.triton.parameters import Parameters
from engines.backends.triton.precisions import CALIBRATED_WITH, calibration_size
from engines.backends.triton.quantize import quantized
from engines.device import build_device
from engines.manifest import TOKENIZER
from engines.model.constants import write_constants


def save_quantized(context: BuildContext, recipe: Recipe, component: str) -> Path:
    """Write constants/<component>.safetensors with quantized layers; returns it.

    Raises:
        BuildFailed: calibration met values that are not finite.
        ModelRefused: the pictures to calibrate with cannot be read.
    """
    scales = context.once("scales", lambda: _calibrate(context, recipe))
    parameters = quantized(Parameters.of(context.module(component)).moved(build_device()), scales[component])
    path = context.folder / CONSTANTS / f"{component}.safetensors"
    return write_constants(parameters.tensors, parameters.settings, path)


def _calibrate(context: BuildContext, recipe: Recipe) -> Scales:
    """Draw the subjects on the GPU that is here."""
    device, geometry = build_device(), context.geometry
    assert geometry is not None, "stages of components come after `describe`"
    subjects = context.subject_source.subjects(*calibration_size(recipe.profiles))
    parameters = {name: Parameters.of(context.module(name)).moved(device) for name in CALIBRATED_WITH}
    with empty_cache(), torch.inference_mode():
        networks = WatchedNetworks(
            parameters,
            tokenizer_path=context.folder / TOKENIZER,
            geometry=geometry,  # to read it again would write the tokenizer, whose file an older set may share
            noise_schedule=context.read_schedule(),
            device=device,
        )
        return calibrated(networks, parameters, subjects)
