"""Networks of a single file, `.safetensors` or a pickle: in the original layout, or a ControlNet with diffusers' names.

Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.errors import ModelRefused
from engines.model.checkpoint import MAKERS, PREFIXES, SD15, UNET, absent_sizes, read_config
from engines.model.families import refuse_other_inputs
from engines.model.fill import Changing, Contents, Named, fill, unchanged
from engines.model.look_alikes import CHECKPOINT, look_of
from engines.model.surplus import check_beside
from engines.model.tensor_files import TensorFile, open_tensors

# A ControlNet that was saved by itself, with the original names or with diffusers'.
_BARE_CONTROLNET = ("input_hint_block.", "zero_convs.", "controlnet_cond_embedding.", "controlnet_down_blocks.")
_BARE_VAE = ("encoder.", "decoder.", "quant_conv.", "post_quant_conv.", "loss.", "model_ema.")
_VAE_MARKS = ("decoder.conv_in.weight", "post_quant_conv.weight")
_FIRST = "model.diffusion_model.input_blocks.0.0.weight"
_DIFFERENCE = "difference"
_NORM = re.compile(r"(in_layers\.0|out_layers\.0|resnets\.\d+\.norm\d)\.weight$")
_NORM_OF_DIFFERENCES = 0.03
_SCALE_ROUNDING = 0.01  # a bfloat16's


@dataclass(frozen=True)
class Description:
    """What says the sizes of a single file's networks.

    `config` is the .yaml, None for SD1.5's sizes. `unet` is the U-Net's configuration in diffusers' terms where the
    model is a folder: a ControlNet without a .yaml is a copy of that U-Net's first half. `both` says that the model's
    file is the ControlNet's as well, since no other was named; `vae_alone` that the file was named for its VAE.
    """

    config: Path | None = None
    unet: Mapping[str, Any] | None = None
    both: bool = False
    vae_alone: bool = False

    def original(self) -> dict[str, Any]:
        """The .yaml's contents, or those of SD1.5's.

        Raises:
            ModelRefused: as read_config.
        """
        return SD15 if self.config is None else read_config(self.config)

    def says(self, part: str) -> str:
        """The end of a sentence about other sizes."""
        if part == "controlnet" and self.config is None and self.unet is not None:
            return "a ControlNet has the sizes of the model's U-Net"
        return "the model's .yaml says them: --original-config"


def load_part(
    part: str, path: Path, *, description: Description, dtype: torch.dtype, changing: Changing = unchanged
) -> Any:
    """One network of a single file, in `dtype`; `changing` gives the changes to its values.

    Raises:
        ModelRefused: the file cannot be read safely, has no such part, or has other sizes.
    """
    file = open_tensors(path)
    tensors = part_of(file, part) or (_bare_vae(file) if part == "vae" and description.vae_alone else {})
    if not tensors:
        raise ModelRefused(
            f"{path} holds no {part}: it has no tensors named {PREFIXES[part]}*{_hint(file, part, description)}"
        )
    if part == "unet":
        check_beside(path, file.names, tuple(PREFIXES.values()))
        _check_inputs(path, tensors)
    original = description.original()
    if part == "controlnet" and description.config is None and description.unet is not None:
        original = {**original, UNET: description.unet}
    empty = {name: torch.empty(tensor.shape, device="meta") for name, tensor in tensors.items()}
    network, renamed = _made(part, path, empty, original, description)
    expected = network.state_dict()
    renamed = {name: tensor for name, tensor in renamed.items() if name in expected}
    named, surplus = _traced(part, tensors, empty, renamed)
    if part == "vae":
        check_scale(file, network.config.scaling_factor)
    contents = Contents(part, path, named, surplus, description.says(part), strict=True)
    return fill(network, contents, dtype, changing)


def _check_inputs(path: Path, tensors: Mapping[str, Tensor]) -> None:
    first = tensors.get(_FIRST)
    if first is not None and first.dim() == 4:
        refuse_other_inputs(path, _FIRST, first.shape[1])


def _made(
    part: str, path: Path, empty: Mapping[str, Tensor], original: Mapping[str, Any], description: Description
) -> tuple[Any, dict[str, Tensor]]:
    """The network and the renamed tensors, both without values."""
    try:
        return MAKERS[part](empty, original)
    except ModelRefused:
        raise
    except Exception as error:  # diffusers' functions and constructors check little: anything may come of a wrong file
        if isinstance(error, KeyError) and str(error.args[0]).endswith((".weight", ".bias")):
            raise ModelRefused(f"{path} cannot be read as SD1.5's {part}: {error.args[0]} is missing") from error
        if absent := absent_sizes(part, original):
            raise ModelRefused(f"{description.config} does not describe a {part}: it does not name {absent}") from error
        described = "SD1.5" if description.config is None else str(description.config)
        raise ModelRefused(f"{path} has a {part} that {described} does not describe ({error!r})") from error


def _traced(
    part: str, tensors: Mapping[str, Tensor], empty: Mapping[str, Tensor], renamed: Mapping[str, Tensor]
) -> tuple[dict[str, Named], dict[str, Tensor]]:
    """Follow the renamed tensors, which have no values, back to those of the file. Also returns the tensors not taken.

    A renamed tensor is one of `empty` or a view of one: attention that was made of 1x1 convolutions.
    """
    names = {id(tensor): name for name, tensor in empty.items()}
    named: dict[str, Named] = {}
    for new, tensor in renamed.items():
        name = names[id(tensor if id(tensor) in names else tensor._base)]
        values = tensors[name]
        fits = values.numel() == tensor.numel() and values.layout == torch.strided
        named[new] = Named(name, values.reshape(tensor.shape) if fits else values)
    used = {each.name for each in named.values()}
    prefix = PREFIXES[part]
    surplus = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name not in used}
    return named, surplus


def part_of(file: TensorFile, part: str) -> dict[str, Tensor]:
    """The tensors of one part, by their names in the file; none if it has no such part.

    Raises:
        ModelRefused: the ControlNet is a 'difference' ControlNet.
    """
    tensors = file.read(lambda name: name.startswith(PREFIXES[part]))
    if part == "controlnet":
        if not tensors and any(name.startswith(_BARE_CONTROLNET) for name in file.names):
            tensors = file.read(lambda name: name != _DIFFERENCE)  # a ControlNet that was saved by itself
        _refuse_difference(file, tensors)
    return tensors


def _bare_vae(file: TensorFile) -> dict[str, Tensor]:
    """The tensors of a VAE that was saved by itself, with the original names or with diffusers'."""
    return file.read(lambda name: name.startswith(_BARE_VAE)) if {*_VAE_MARKS} & {*file.names} else {}


def check_scale(file: TensorFile, described: float) -> None:
    """A model that was trained with scale_by_std has the factor of its latents in the file.

    Raises:
        ModelRefused: it differs from the description's.
    """
    own = file.read(lambda name: name == "scale_factor").get("scale_factor")
    if own is not None and not (own.numel() == 1 and abs(float(own) / described - 1) < _SCALE_ROUNDING):
        raise ModelRefused(
            f"{file.path} has the scale_factor {own.flatten()[:1].tolist()}, and its description has {described}; name "
            "the model's .yaml with --original-config"
        )


def _hint(file: TensorFile, part: str, description: Description) -> str:
    look = look_of(file.names)
    if part == "vae" and not description.vae_alone and look is not None and look.endswith(CHECKPOINT):
        return "; name one with --vae"
    is_checkpoint = look is not None and look.endswith(CHECKPOINT)
    if part == "controlnet" and description.both and (look is None or is_checkpoint):
        return "; name a ControlNet with --controlnet"
    return "" if look is None or (part != "controlnet" and is_checkpoint) else f"; {look}"


def _refuse_difference(file: TensorFile, tensors: Mapping[str, Tensor]) -> None:
    """Such files hold a ControlNet minus the U-Net that it was trained from; programs add them to any U-Net.

    Extraction tools mark them with a tensor. Without a mark they are known by their norms: a network's weights are near
    one there, their differences near zero.
    """
    if not tensors:
        return
    plain = (tensor for name, tensor in tensors.items() if _NORM.search(name) and tensor.layout == torch.strided)
    norms = [tensor.float().abs().mean() for tensor in plain if tensor.is_floating_point() and not tensor.is_meta]
    if _DIFFERENCE in file.names or (norms and float(torch.stack(norms).mean()) < _NORM_OF_DIFFERENCES):
        raise ModelRefused(
            f"{file.path} is a 'difference' ControlNet: it holds differences to a U-Net's weights, which is not "
            "supported; get the whole ControlNet, such as control_v11p_sd15_canny.pth"
        )
