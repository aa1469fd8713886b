"""Attention as one operator: in graphs for onnxruntime, and only there."""

from __future__ import annotations

import copy
from collections import Counter

import onnx
import pytest
import torch
from diffusers import ControlNetModel, UNet2DConditionModel

from engines.backends import registry
from engines.backends.onnxruntime.attention import fuse_attention
from engines.build.recipe import recipe_for
from engines.manifest import EXPORT
from engines.spec import Profile
from tests.models import tiny_engine_set, tiny_model

# Blocks with attention: two a level and direction at three levels (one more on the way up), one in the middle.
LAYERS = {"unet": 2 * (3 * 2 + 3 * 3 + 1), "controlnet": 2 * (3 * 2 + 1)}


def operators(path: str) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize(("name", "layers"), LAYERS.items())
def test_a_set_for_onnxruntime_has_one_operator_a_layer_and_no_softmax(name: str, layers: int) -> None:
    found = operators(str(tiny_engine_set() / f"{name}.onnx"))
    assert (found["MultiHeadAttention"], found["Softmax"]) == (layers, 0)


def test_a_graph_for_tensorrt_is_made_anew_not_taken_from_a_set_for_onnxruntime() -> None:
    profiles = (Profile.parse("64x64", max_batch=1),)
    ours = recipe_for("onnxruntime", precision="fp32", profiles=profiles, capability=None)
    theirs = recipe_for("tensorrt", precision="fp32", profiles=profiles, capability="sm89")
    (our_export,) = registry.choose("onnxruntime").stages(ours, "unet")
    their_export, _plan = registry.choose("tensorrt").stages(theirs, "unet")
    assert (our_export.name, their_export.name) == (EXPORT, EXPORT)
    assert ("fused attention" in our_export.inputs, "fused attention" in their_export.inputs) == (True, False)
    assert our_export.inputs != their_export.inputs


@pytest.mark.parametrize("part", ["model/unet", "controlnet"])
def test_the_network_computes_the_same(part: str) -> None:
    kind = UNet2DConditionModel if part.endswith("unet") else ControlNetModel
    network = kind.from_pretrained(tiny_model() / part).eval()
    fused = copy.deepcopy(network)
    assert fuse_attention(fused) == LAYERS[part.split("/")[-1]]
    generator = torch.Generator().manual_seed(0)
    noise, context = (torch.randn(shape, generator=generator) for shape in ((2, 4, 16, 24), (2, 77, 32)))
    context = context[..., : network.config.cross_attention_dim]
    hint = {"controlnet_cond": torch.rand(2, 3, 128, 192, generator=generator)} if part == "controlnet" else {}
    with torch.no_grad():
        usual, other = (
            net(noise, torch.tensor([3, 900]), context, return_dict=False, **hint)[0] for net in (network, fused)
        )
    for a, b in zip(usual, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
