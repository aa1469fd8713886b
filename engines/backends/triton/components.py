"""The networks as Engines: spec.py's names, channels first outside and channels last inside."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from engines.backends.protocol import Engine
from engines.backends.triton.clip import Clip
from engines.backends.triton.controlnet import ControlNet, Hint
from engines.backends.triton.decoder import Decoder
from engines.backends.triton.operands import Features
from engines.backends.triton.parameters import Parameters
from engines.backends.triton.unet import Encoded, UNet
from engines.spec import CONTROLS


class ClipEngine:
    """input_ids -> last_hidden_state."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = Clip(parameters)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"last_hidden_state": self._network(inputs["input_ids"])}


class HintEngine:
    """hint -> guided_hint."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = Hint(parameters)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"guided_hint": channels_first(self._network(channels_last(inputs["hint"])))}


class ControlNetEngine:
    """x_noisy, guided_hint, timestep, context, control_scales -> control0..control12."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = ControlNet(parameters.at("network"))

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = {}
        for i, control in enumerate(self.controls(inputs)):
            scale = inputs["control_scales"][:, i].float().view(-1, 1, 1, 1)
            whole = control.whole.repeat(scale.shape[0] // control.data.shape[0], 1, 1, 1)
            outputs[f"control{i}"] = channels_first((scale * whole).to(control.data.dtype))
        return outputs

    def controls(self, inputs: Mapping[str, Tensor]) -> list[Features]:
        """The thirteen controls before they are scaled, of one half's rows where both are the same."""
        noisy, hint, timestep = (half(inputs[name]) for name in ("x_noisy", "guided_hint", "timestep"))
        return self._network(channels_last(noisy), channels_last(hint), timestep, inputs["context"])


class UNetEngine:
    """x_noisy, timestep, context, control0..control12 -> latent."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = UNet(parameters.at("network"))

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        given = [channels_last(inputs[f"control{i}"]) for i in range(CONTROLS)]
        controls = [Features(data, torch.zeros(data.shape[3], device=data.device)) for data in given]
        ones = given[0].new_ones(given[0].shape[0], len(given))
        return self.decode(self.encode(inputs), controls, ones)

    def encode(self, inputs: Mapping[str, Tensor]) -> Encoded:
        """The encoder's half of the network: it needs no controls."""
        noisy, timestep = half(inputs["x_noisy"]), half(inputs["timestep"])
        return self._network.encode(channels_last(noisy), timestep, inputs["context"])

    def decode(self, encoded: Encoded, controls: list[Features], scales: Tensor) -> dict[str, Tensor]:
        """The decoder's half; `scales` [R,13] multiplies the controls."""
        return {"latent": channels_first(self._network.decode(encoded, controls, scales))}


def predict(controlnet: ControlNetEngine, unet: UNetEngine, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """ControlNet, then U-Net, whose join scales the controls: the controlnet's inputs -> `latent`."""
    controls = controlnet.controls(inputs)
    return unet.decode(unet.encode(inputs), controls, inputs["control_scales"])


class DecoderEngine:
    """latent -> image."""

    def __init__(self, parameters: Parameters) -> None:
        self._network = Decoder(parameters)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"image": channels_first(self._network(channels_last(inputs["latent"])))}


ENGINES: dict[str, Callable[[Parameters], Engine]] = {
    "clip": ClipEngine,
    "hint": HintEngine,
    "controlnet": ControlNetEngine,
    "unet": UNetEngine,
    "decoder": DecoderEngine,
}


def half(tensor: Tensor) -> Tensor:
    """The first half of the rows; the second half is the same (spec.py)."""
    return tensor[: tensor.shape[0] // 2]


def channels_last(tensor: Tensor) -> Tensor:
    """[N,C,H,W] -> [N,H,W,C], contiguous."""
    return tensor.permute(0, 2, 3, 1).contiguous()


def channels_first(tensor: Tensor) -> Tensor:
    """[N,H,W,C] -> [N,C,H,W], a view."""
    return tensor.permute(0, 3, 1, 2)
