"""Weights to five torch modules with spec.py's tensor names: wrappers around diffusers' and transformers' networks.

Each module's `forward` takes the spec's inputs and gives its outputs, in the spec's order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from engines.errors import ModelRefused
from engines.model.beside import check_beside
from engines.model.families import WANTED
from engines.model.fill import unchanged
from engines.model.folder import load_folder, read_folder_config
from engines.model.libraries import quiet_libraries
from engines.model.locate import PART_OF, Weights
from engines.model.lora import lora_changes
from engines.model.single_file import Description, load_part
from engines.model.text_encoder import adapted
from engines.model.tokenizer import SpecialTokens
from engines.model.vae_scale import check_vae_scale
from engines.spec import COMPONENTS, CONTROLS, Geometry


class Clip(nn.Module):
    """input_ids int64 [N,77] -> last_hidden_state [N,77,C], after the final layer norm."""

    def __init__(self, text_encoder: nn.Module) -> None:
        super().__init__()
        self.text_encoder = text_encoder

    def forward(self, input_ids: Tensor) -> Tensor:
        states: Tensor = self.text_encoder(input_ids, return_dict=True).last_hidden_state
        return states


class Hint(nn.Module):
    """hint [N,3,8h,8w] in 0..1 -> guided_hint [N,C,h,w]: the part of the ControlNet that sees only the edges."""

    def __init__(self, embedding: nn.Module) -> None:
        super().__init__()
        self.embedding = embedding

    def forward(self, hint: Tensor) -> Tensor:
        guided: Tensor = self.embedding(hint)
        return guided


class ControlNet(nn.Module):
    """x_noisy, guided_hint, timestep, context, control_scales [R,13] -> control0..control12, scaled row by row."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        network.controlnet_cond_embedding = nn.Identity()  # Hint runs it, once an image
        self.network = network

    def forward(
        self, x_noisy: Tensor, guided_hint: Tensor, timestep: Tensor, context: Tensor, control_scales: Tensor
    ) -> tuple[Tensor, ...]:
        down, mid = self.network(x_noisy, timestep, context, guided_hint, return_dict=False)
        scales = control_scales[:, :, None, None, None]
        return tuple(control * scales[:, i] for i, control in enumerate([*down, mid]))


class UNet(nn.Module):
    """x_noisy, timestep, context, control0..control12 -> latent: the predicted noise [R,4,h,w]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_noisy: Tensor, timestep: Tensor, context: Tensor, *controls: Tensor) -> Tensor:
        noise: Tensor = self.network(
            x_noisy,
            timestep,
            context,
            down_block_additional_residuals=controls[:-1],
            mid_block_additional_residual=controls[-1],
            return_dict=False,
        )[0]
        return noise


class Decoder(nn.Module):
    """latent [N,4,h,w], already divided by the scaling factor -> image [N,3,8h,8w], about -1..1."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.post_quant = vae.post_quant_conv
        self.decoder = vae.decoder

    def forward(self, latent: Tensor) -> Tensor:
        image: Tensor = self.decoder(self.post_quant(latent))
        return image


PARTS = ("text_encoder", "unet", "vae", "controlnet")  # in the order of Networks' fields
_WITH_LORAS = ("text_encoder", "unet")


@dataclass(frozen=True)
class Networks:
    """The four networks that the five components are made from, on the CPU, in eval mode."""

    text_encoder: Any
    unet: Any
    vae: Any
    controlnet: Any

    def modules(self) -> dict[str, nn.Module]:
        """Component name -> module. Call it once: it takes the hint embedding out of the ControlNet."""
        return {name: wrap(name, getattr(self, PART_OF[name])) for name in COMPONENTS}


def wrap(name: str, network: Any) -> nn.Module:
    """One component of a network. Wrap a ControlNet's `hint` before `controlnet`, which removes the embedding."""
    if name == "hint":
        return Hint(network.controlnet_cond_embedding)
    wrappers: dict[str, Callable[[Any], nn.Module]] = {
        "clip": Clip,
        "controlnet": ControlNet,
        "unet": UNet,
        "decoder": Decoder,
    }
    return wrappers[name](network)


class ComponentReader:
    """Reads the components of one model, one after the other. `hint` and `controlnet` are read from the files once."""

    def __init__(self, weights: Weights, dtype: torch.dtype) -> None:
        self._weights = weights
        self._dtype = dtype
        self._kept: dict[str, nn.Module] = {}  # read with another component, and not asked for yet

    def read(self, name: str) -> nn.Module:
        """A component, as an object that no other caller has.

        Raises:
            ModelRefused: the files cannot be read.
        """
        if name not in self._kept:
            network = load_network(PART_OF[name], self._weights, self._dtype)
            self._kept |= {each: wrap(each, network) for each in COMPONENTS if PART_OF[each] == PART_OF[name]}
        return self._kept.pop(name)


def load_component(name: str, weights: Weights, dtype: torch.dtype) -> nn.Module:
    """Read one component, from its own copy of the network.

    Raises:
        ModelRefused: the files cannot be read.
    """
    return ComponentReader(weights, dtype).read(name)


def load_networks(weights: Weights, *, dtype: torch.dtype = torch.float32) -> Networks:
    """Read the four networks.

    Raises:
        ModelRefused: unreadable files, or networks that are not SD1.5's with a ControlNet.
    """
    for part in PARTS:  # all configurations are looked at before minutes are spent on gigabytes
        path = weights.path_of(part)
        if path.is_dir():
            read_folder_config(part, path)
        elif path != weights.model:
            check_beside(part, path)
    check_vae_scale(weights)
    networks = Networks(*(load_network(part, weights, dtype) for part in PARTS))
    check_networks(networks)
    return networks


def load_network(part: str, weights: Weights, dtype: torch.dtype) -> Any:
    """Read one network, in eval mode and without gradients; every tensor comes from the files.

    Raises:
        ModelRefused: the files cannot be read as this network.
    """
    path, additions = weights.path_of(part), weights.additions
    changing = partial(lora_changes, additions.loras, part) if additions.loras and part in _WITH_LORAS else unchanged
    with quiet_libraries():
        if path.is_file():
            both = weights.controlnet == weights.model
            description = Description(weights.original_config, _unet_config(weights), both, path == additions.vae)
            network = load_part(part, path, description=description, dtype=dtype, changing=changing)
        else:
            network = load_folder(part, path, dtype, changing)
        if part == "text_encoder":
            network = adapted(network, additions)
    return network.eval().requires_grad_(False)


def _unet_config(weights: Weights) -> dict[str, Any] | None:
    folder = weights.path_of("unet")
    return read_folder_config("unet", folder) if folder.is_dir() else None


def check_networks(networks: Networks) -> None:
    """Hold the networks against one another, and refuse what the spec cannot describe.

    Raises:
        ModelRefused: naming the first thing in which they differ, or that is not SD1.5's graph.
    """
    unet, controlnet, vae = networks.unet.config, networks.controlnet.config, networks.vae.config
    if unet.in_channels != vae.latent_channels:
        raise ModelRefused(
            f"the U-Net takes {unet.in_channels} channels, the VAE gives {vae.latent_channels}: they belong to "
            f"different models; {WANTED}"
        )
    if unet.out_channels != unet.in_channels:
        raise ModelRefused(f"the U-Net takes {unet.in_channels} channels and predicts {unet.out_channels}")
    text_width = networks.text_encoder.config.hidden_size
    if unet.cross_attention_dim != text_width or controlnet.cross_attention_dim != text_width:
        raise ModelRefused(
            f"text encoder, U-Net and ControlNet differ in width: {text_width}, {unet.cross_attention_dim} and "
            f"{controlnet.cross_attention_dim}; they belong to different model families: {WANTED}, "
            "and a ControlNet for it"
        )
    _check_controlnet(unet, controlnet)
    controls = len(networks.controlnet.controlnet_down_blocks) + 1
    if controls != CONTROLS or len(vae.block_out_channels) != 4:
        raise ModelRefused(f"only SD1.5's graph is built here: {CONTROLS} controls and an x8 VAE; this has {controls}")
    if controlnet.global_pool_conditions or controlnet.controlnet_conditioning_channel_order != "rgb":
        raise ModelRefused("ControlNets with pooled conditions or BGR hints are not supported")


def _check_controlnet(unet: Any, controlnet: Any) -> None:
    """A ControlNet is a copy of a U-Net's way down. No tensor's shape tells heads and groups, so they are compared."""
    if list(unet.block_out_channels) != list(controlnet.block_out_channels):
        raise ModelRefused("the ControlNet was made for a U-Net of other widths")
    levels = len(unet.block_out_channels)
    for name in ("in_channels", "attention_head_dim", "norm_num_groups", "norm_eps"):
        own, its = (_by_level(getattr(config, name), levels) for config in (unet, controlnet))
        if own != its:
            raise ModelRefused(
                f"the ControlNet was made for another U-Net: its {name} is {getattr(controlnet, name)}, the U-Net's is "
                f"{getattr(unet, name)}"
            )


def _by_level(value: Any, levels: int) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value] * levels


def geometry_of(networks: Networks, tokens: SpecialTokens) -> Geometry:
    """The sizes that spec.py needs, read from the networks' configurations."""
    text, unet, vae = networks.text_encoder.config, networks.unet.config, networks.vae.config
    blocks = [*networks.controlnet.controlnet_down_blocks, networks.controlnet.controlnet_mid_block]
    return Geometry(
        latent_channels=vae.latent_channels,
        image_channels=vae.out_channels,
        scaling_factor=vae.scaling_factor,
        context_length=text.max_position_embeddings,
        context_width=text.hidden_size,
        hint_channels=unet.block_out_channels[0],
        control_channels=tuple(block.out_channels for block in blocks),
        bos_token_id=tokens.bos,
        eos_token_id=tokens.eos,
        pad_token_id=tokens.pad,
    )
