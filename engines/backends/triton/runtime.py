"""The triton backend: the networks of engines/backends/triton with the set's weights, and its compiled kernels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from engines.backends.triton import hopper
from engines.backends.triton.kernel_cache import install_kernels
from engines.backends.triton.networks import ControlNet, Descended, UNet
from engines.backends.triton.ops import Features
from engines.backends.triton.parameters import Parameters, load_parameters
from engines.backends.triton.pictures import Clip, Decoder, Hint
from engines.engine_set import Backend, Engine, Placement
from engines.manifest import Manifest

# Up to so many latent cells in a batch, the ControlNet runs beside the U-Net's way down; more fill the GPU by
# themselves. On an H200: 12% a step at 1 x 64 x 64, 3% at 8 x 32 x 48, nothing at 8 x 64 x 64.
SIDE_BY_SIDE = 16384


class ClipEngine:
    """input_ids -> last_hidden_state."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = Clip(parameters)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names and shapes as in spec.py."""
        return {"last_hidden_state": self._network(inputs["input_ids"])}


class HintEngine:
    """hint -> guided_hint."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = Hint(parameters)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names and shapes as in spec.py."""
        return {"guided_hint": channels_first(self._network(channels_last(inputs["hint"])))}


class ControlNetEngine:
    """x_noisy, guided_hint, timestep, context, control_scales -> control0..control12."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = ControlNet(parameters.at("network"))

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names and shapes as in spec.py."""
        found = {}
        for i, control in enumerate(self.controls(inputs)):
            scale = inputs["control_scales"][:, i].float().view(-1, 1, 1, 1)
            whole = control.whole.repeat(scale.shape[0] // control.data.shape[0], 1, 1, 1)
            found[f"control{i}"] = channels_first((scale * whole).to(control.data.dtype))
        return found

    def controls(self, inputs: Mapping[str, Tensor]) -> list[Features]:
        """Before they are scaled."""
        noisy, hint, timestep = (half(inputs[name]) for name in ("x_noisy", "guided_hint", "timestep"))
        return self._network(channels_last(noisy), channels_last(hint), timestep, inputs["context"])


class UNetEngine:
    """x_noisy, timestep, context, control0..control12 -> latent."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = UNet(parameters.at("network"))

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names and shapes as in spec.py."""
        given = [channels_last(inputs[f"control{i}"]) for i in range(13)]
        controls = [Features(data, torch.zeros(data.shape[3], device=data.device)) for data in given]
        ones = given[0].new_ones(given[0].shape[0], len(given))
        return self.ascend(self.descend(inputs), controls, ones)

    def descend(self, inputs: Mapping[str, Tensor]) -> Descended:
        """What needs no control."""
        noisy, timestep = half(inputs["x_noisy"]), half(inputs["timestep"])
        return self._network.down(channels_last(noisy), timestep, inputs["context"])

    def ascend(self, descended: Descended, controls: list[Features], scales: Tensor) -> dict[str, Tensor]:
        """The rest."""
        return {"latent": channels_first(self._network.up(descended, controls, scales))}


class DecoderEngine:
    """latent -> image."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = Decoder(parameters)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Names and shapes as in spec.py."""
        return {"image": channels_first(self._network(channels_last(inputs["latent"])))}


ENGINES: dict[str, Callable[[Parameters], Engine]] = {
    "clip": ClipEngine,
    "hint": HintEngine,
    "controlnet": ControlNetEngine,
    "unet": UNetEngine,
    "decoder": DecoderEngine,
}


def half(tensor: Tensor) -> Tensor:
    """The first half's rows: the second's are the same (spec.py)."""
    return tensor[: tensor.shape[0] // 2]


def channels_last(tensor: Tensor) -> Tensor:
    """[N,C,H,W] -> [N,H,W,C], contiguous."""
    return tensor.permute(0, 2, 3, 1).contiguous()


def channels_first(tensor: Tensor) -> Tensor:
    """[N,H,W,C] -> [N,C,H,W], a view."""
    return tensor.permute(0, 3, 1, 2)


class TritonBackend(Backend):
    """Opens components from the set's weights; `device` is a GPU but in tests."""

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device) -> None:
        self._folder, self._manifest, self._device = folder, manifest, device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    @torch.inference_mode()
    def open(self, name: str) -> Engine:
        """Read the weights, without diffusers, and lay them out for the kernels."""
        (stored,) = self._manifest.components[name].stages["constants"].files
        return ENGINES[name](load_parameters(self._folder / stored, self._device))

    def predict(self, controlnet: Engine, unet: Engine, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Control net and U-Net, side by side where neither fills the GPU; controls are scaled where they join."""
        assert isinstance(controlnet, ControlNetEngine), controlnet
        assert isinstance(unet, UNetEngine), unet
        noisy = inputs["x_noisy"]
        if self._side is None or noisy.numel() // (2 * noisy.shape[1]) > SIDE_BY_SIDE:
            controls = controlnet.controls(inputs)
            return unet.ascend(unet.descend(inputs), controls, inputs["control_scales"])
        stream = torch.cuda.current_stream(self._device)
        self._side.wait_stream(stream)
        with torch.cuda.stream(self._side):
            controls = controlnet.controls(inputs)
        descended = unet.descend(inputs)
        stream.wait_stream(self._side)
        return unet.ascend(descended, controls, inputs["control_scales"])


def open_backend(folder: Path, manifest: Manifest, placement: Placement) -> TritonBackend:
    """The backend of a set in `folder`; its kernels are Triton's from now on.

    Raises:
        BackendUnavailable: this GPU needs a package that is not installed.
    """
    if placement.device.type == "cuda":
        hopper.check_installed(placement.device)
        archives = [name for part in manifest.components.values() for name in part.stages["kernels"].files]
        install_kernels([folder / name for name in archives])
    return TritonBackend(folder, manifest, placement.device)
