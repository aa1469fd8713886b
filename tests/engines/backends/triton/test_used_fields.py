"""Fields of the configurations that are used: the networks written for one GPU honour another value of each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ControlNetModel, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel

from engines.backends.torch.runtime import TorchEngine
from engines.backends.triton.components import ENGINES
from engines.backends.triton.parameters import Parameters
from engines.check.verify import likely_inputs
from engines.model.config_rules import PARTS
from engines.model.fields import Used
from engines.model.networks import Networks, UNet, check_networks, geometry_of
from engines.model.tokenizer import SpecialTokens
from engines.spec import component_specs

UNET: dict[str, Any] = {
    "block_out_channels": (16, 32, 32, 32),
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "cross_attention_dim": 32,
}
HINT = {"conditioning_embedding_out_channels": (8, 8, 16, 16)}
VAE: dict[str, Any] = {
    "block_out_channels": (8, 16, 16, 16),
    "norm_num_groups": 8,
    "layers_per_block": 1,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
}
TEXT: dict[str, Any] = {
    "vocab_size": 600,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
# Part -> field -> another value, and what has to change with it in other parts.
OTHERS: dict[tuple[str, str], tuple[Any, Mapping[str, Mapping[str, Any]]]] = {
    ("unet", "in_channels"): (8, {"unet": {"out_channels": 8}, "vae": {"latent_channels": 8}}),
    ("unet", "out_channels"): (8, {"unet": {"in_channels": 8}, "vae": {"latent_channels": 8}}),
    ("unet", "block_out_channels"): ([32, 16, 64, 16], {}),
    ("unet", "cross_attention_dim"): (48, {"text_encoder": {"hidden_size": 48}}),
    ("unet", "attention_head_dim"): ([2, 4, 8, 1], {}),
    ("unet", "norm_num_groups"): (4, {}),
    ("unet", "norm_eps"): (0.3, {}),
    ("controlnet", "conditioning_embedding_out_channels"): ((16, 8, 32, 8), {}),
    ("vae", "block_out_channels"): ((16, 8, 32, 24), {}),
    ("vae", "layers_per_block"): (3, {}),
    ("vae", "latent_channels"): (8, {"unet": {"in_channels": 8, "out_channels": 8}}),
    ("vae", "norm_num_groups"): (2, {}),
    ("vae", "scaling_factor"): (0.5, {}),
    ("text_encoder", "hidden_size"): (48, {"unet": {"cross_attention_dim": 48}}),
    ("text_encoder", "intermediate_size"): (40, {}),
    ("text_encoder", "num_hidden_layers"): (1, {}),
    ("text_encoder", "num_attention_heads"): (2, {}),
    ("text_encoder", "max_position_embeddings"): (50, {}),
    ("text_encoder", "vocab_size"): (514, {}),
    ("text_encoder", "layer_norm_eps"): (0.3, {}),
}
OF_THE_UNET = {"in_channels", "block_out_channels", "cross_attention_dim", "attention_head_dim", "norm_num_groups"}


def test_every_used_field_has_another_value_here() -> None:
    used = {(part, name) for part in PARTS for name, rule in PARTS[part][2].items() if isinstance(rule, Used)}
    # A ControlNet's are those of the U-Net that it is made from.
    used -= {("controlnet", name) for name in (*OF_THE_UNET, "norm_eps")}
    # These are held against the tokenizer's; no network reads them.
    used -= {("text_encoder", f"{name}_token_id") for name in ("bos", "eos", "pad")}
    assert used == set(OTHERS)


def networks(changes: Mapping[str, Mapping[str, Any]]) -> Networks:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(**UNET | dict(changes.get("unet", {})))
    controlnet = ControlNetModel.from_unet(unet, **HINT | dict(changes.get("controlnet", {})))
    for parameter in controlnet.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)  # zero convolutions hide what is wrong
    made = Networks(
        CLIPTextModel(CLIPTextConfig(**TEXT | dict(changes.get("text_encoder", {})))),
        unet,
        AutoencoderKL(**VAE | dict(changes.get("vae", {}))),
        controlnet,
    )
    for network in (made.text_encoder, made.unet, made.vae, made.controlnet):
        network.eval().requires_grad_(False)
    check_networks(made)
    return made


@pytest.mark.parametrize(("part", "name"), OTHERS)
def test_another_value_of_a_used_field_gives_what_diffusers_gives(part: str, name: str) -> None:
    value, others = OTHERS[part, name]
    made = networks({**others, part: {**others.get(part, {}), name: value}})
    specs = component_specs(geometry_of(made, SpecialTokens(0, 1, 1)))
    for component, module in made.modules().items():
        spec = specs[component]
        engine = ENGINES[component](Parameters.of(module))
        inputs = likely_inputs(spec, 1, height=64, width=128)
        expected, found = TorchEngine(module, spec)(inputs), engine(inputs)
        for tensor in spec.outputs:
            want = expected[tensor.name]
            assert float((found[tensor.name] - want).norm() / want.norm()) < 1e-5, (component, tensor.name)


SAME = {
    "layers_per_block": [2, 2, 2, 2],
    "transformer_layers_per_block": [1, 1, 1, 1],
    "reverse_transformer_layers_per_block": [1, 1, 1, 1],
    "only_cross_attention": [False, False, False, False],
    "mid_block_only_cross_attention": False,
    "act_fn": "swish",
    "use_linear_projection": None,
    "upcast_attention": True,
    "dropout": 0.5,
    "sample_size": [8, 16],
    "addition_embed_type_num_heads": 4,
}


@pytest.mark.parametrize("name", SAME)
def test_other_values_that_are_allowed_make_the_same_network(name: str) -> None:
    torch.manual_seed(0)
    usual: Any = UNet2DConditionModel(**UNET)
    other: Any = UNet2DConditionModel(**UNET | {name: SAME[name]})
    usual.eval()
    other.eval()
    other.load_state_dict(usual.state_dict())
    inputs = torch.randn(1, 4, 8, 8), torch.tensor([501]), torch.randn(1, 77, 32)
    with torch.no_grad():
        expected = usual(*inputs, return_dict=False)[0]
        assert torch.equal(other(*inputs, return_dict=False)[0], expected)
        ours = ENGINES["unet"](Parameters.of(UNet(other)))
        zeros = {f"control{i}": torch.zeros(2, *shape) for i, shape in enumerate(_control_shapes())}
        doubled = {"x_noisy": inputs[0].repeat(2, 1, 1, 1), "timestep": inputs[1].float().repeat(2)}
        found = ours({**doubled, "context": inputs[2].repeat(2, 1, 1), **zeros})["latent"][:1]
    assert float((found - expected).norm() / expected.norm()) < 1e-5


def _control_shapes() -> list[tuple[int, int, int]]:
    widths = [16, 16, 16, 16, 32, 32, 32, 32, 32, 32, 32, 32, 32]
    sides = [8, 8, 8, 4, 4, 4, 2, 2, 2, 1, 1, 1, 1]
    return [(width, side, side) for width, side in zip(widths, sides, strict=True)]
