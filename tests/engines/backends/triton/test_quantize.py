"""Quantized layers on the CPU: which they are, their weights and scales, and what becomes of a network."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from engines.backends import registry
from engines.backends.recipe import BuildContext, Recipe
from engines.backends.triton import calibration, ops
from engines.backends.triton.calibration import MARGIN, WatchedNetworks, calibrated
from engines.backends.triton.components import ENGINES
from engines.backends.triton.operands import LARGEST, QUANTIZED, Layer, Norm, Observer, Quantized
from engines.backends.triton.parameters import INPUT_SCALE, WEIGHT_SCALE, Parameters
from engines.backends.triton.quantize import layer_names, quantized, quantized_weight
from engines.backends.triton.quantized_build import save_quantized
from engines.backends.triton.stored_scales import scales_in
from engines.build.builder import _Builder, _says_the_same
from engines.check.verify import likely_inputs
from engines.engine_set import load_engine_set
from engines.manifest import TOKENIZER, Calibration, load_manifest
from engines.model.additions import NOTHING, Additions, Lora
from engines.model.locate import find_weights
from engines.model.networks import load_component
from engines.sampler.source import SubjectSource
from engines.spec import Profile
from tests.models import tiny_engine_set, tiny_model

# e4m3 has four bits: a value is off by at most a sixteenth, and by about a fortieth in the mean of squares.
ROUNDING = 0.03


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@cache
def parameters(component: str, dtype: torch.dtype = torch.float16) -> Parameters:
    folder = tiny_model()
    weights = find_weights(str(folder / "model"), str(folder / "controlnet"))
    return Parameters.of(load_component(component, weights, dtype))


def distance(found: Tensor, expected: Tensor) -> float:
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def layer_of(weight: Tensor, input_scale: float) -> Layer:
    data, scale = quantized_weight(weight)
    side = weight.shape[2] if weight.dim() == 4 else 1
    return Layer(data.flatten(1), side, Quantized(input_scale, scale * input_scale))


@pytest.mark.parametrize("shape", [(6, 16), (6, 16, 3, 3), (1, 16)])
def test_a_weight_has_a_scale_for_each_output(shape: tuple[int, ...]) -> None:
    weight = noise(*shape) * torch.logspace(-4, 4, shape[0]).view(-1, *[1] * (len(shape) - 1))
    data, scale = quantized_weight(weight)
    taps = shape[2] * shape[3] if len(shape) == 4 else 1
    assert data.dtype == QUANTIZED
    assert data.shape == (shape[0], taps, shape[1])
    assert (data.float().abs().amax((1, 2)) == LARGEST).all()
    again = (data.float() * scale.view(-1, 1, 1)).transpose(1, 2).reshape(shape)
    for row, expected in zip(again, weight, strict=True):
        assert distance(row, expected) < ROUNDING


def test_an_output_of_zeros_stays_zero() -> None:
    data, scale = quantized_weight(torch.zeros(2, 16))
    assert torch.isfinite(scale).all()
    assert (data.float() == 0).all()


@pytest.mark.parametrize("side", [1, 3])
def test_a_quantized_product_is_that_of_the_numbers_it_stands_for(side: int) -> None:
    weight, x = noise(8, 16, side, side, seed=1), noise(2, 5, 7, 16)
    layer, input_scale = layer_of(weight, 0.01), 0.01
    inputs = (x / input_scale).clamp(-LARGEST, LARGEST).to(QUANTIZED)
    data, scale = quantized_weight(weight)
    meant = (data.float() * scale.view(-1, 1, 1)).transpose(1, 2).reshape(weight.shape)
    first = (inputs.float() * input_scale).permute(0, 3, 1, 2)
    expected = nn.functional.conv2d(first, meant, padding=side // 2).permute(0, 2, 3, 1)
    found = ops.product(inputs, layer)
    assert found.dtype == torch.float16
    assert distance(found, expected) < 1e-3
    added = noise(2, 5, 7, 8, seed=2).half()
    assert distance(ops.product(inputs, layer, added=added.clone()), expected + added) < 1e-3


def test_a_norm_writes_what_its_layer_reads_and_clips() -> None:
    x, norm = noise(2, 4, 4, 16), Norm(torch.full((16,), 3.0), torch.zeros(16), 4, 1e-5)
    plain = ops.group_norm(x, torch.zeros(16), norm, silu=False)
    scale = float(plain.abs().max()) / 2 / LARGEST  # half of the largest value
    layer = layer_of(noise(8, 16), scale)
    found = ops.group_norm(x, torch.zeros(16), norm, silu=False, into=layer)
    assert found.dtype == QUANTIZED
    expected = plain.clamp(-LARGEST * scale, LARGEST * scale)
    assert distance(found.float() * scale, expected) < ROUNDING
    seen = Observer.on(torch.device("cpu"))
    ops.group_norm(x, torch.zeros(16), norm, silu=False, into=replace(layer, observer=seen))
    assert int(seen.clipped) == int((plain.abs() > LARGEST * scale).sum())
    assert seen.values == plain.numel()
    assert float(seen.peak) == pytest.approx(float(plain.abs().max()))


def test_queries_keys_and_values_are_one_quantized_product() -> None:
    weights = [noise(8, 16, seed=seed) * 10**seed for seed in range(3)]
    stacked = Layer.stacked([layer_of(weight, 0.01) for weight in weights])
    inputs = (noise(5, 16) / 0.01).clamp(-LARGEST, LARGEST).to(QUANTIZED)
    apart = torch.cat([ops.product(inputs, layer_of(weight, 0.01)) for weight in weights], dim=1)
    assert torch.equal(ops.product(inputs, stacked), apart)


def test_value_and_gate_are_neighbours_with_their_own_scales() -> None:
    weight, bias = noise(32, 16), noise(32, seed=1)
    weight[16:] *= 100
    down = layer_of(noise(8, 16), 1.0)
    up = layer_of(weight, 0.01).each(ops.in_pairs)
    inputs = (noise(5, 16) / 0.01).clamp(-LARGEST, LARGEST).to(QUANTIZED)
    value, gate = (ops.product(inputs, layer_of(weight, 0.01)).float() + bias).chunk(2, dim=1)
    expected = (value * nn.functional.gelu(gate)).clamp(-LARGEST, LARGEST)
    found = ops.geglu(inputs, up, ops.in_pairs(bias), into=down)
    assert found.dtype == QUANTIZED
    assert distance(found, expected) < ROUNDING
    seen = Observer.on(torch.device("cpu"))
    watched = ops.geglu(inputs, up, ops.in_pairs(bias), into=replace(down, observer=seen))
    assert torch.equal(watched.float(), found.float())
    assert (seen.values, int(seen.clipped)) == (expected.numel(), int((seen_sizes(value, gate) > LARGEST).sum()))


def seen_sizes(value: Tensor, gate: Tensor) -> Tensor:
    return (value * nn.functional.gelu(gate)).half().abs()


def test_the_layers_are_those_behind_a_norm_or_a_gate() -> None:
    names = layer_names("unet", parameters("unet"))
    kinds = {name.rpartition("transformer_blocks.0.")[2] or name.split(".")[-1] for name in names}
    assert {"attn1.to_q", "attn1.to_k", "attn1.to_v", "attn2.to_q", "ff.net.0.proj", "ff.net.2"} <= kinds
    ends = {name.split(".")[-1] for name in names}
    assert ends == {"conv1", "conv2", "proj_in", "to_q", "to_k", "to_v", "proj", "2"}
    assert not any("attn2.to_k" in name or "attn2.to_v" in name for name in names)  # they read the prompts
    assert layer_names("decoder", parameters("decoder")) == ()


@pytest.fixture(scope="module")
def scales() -> dict[str, dict[str, float]]:
    """Calibrated with one picture, on the tiny model."""
    with load_engine_set(tiny_engine_set("torch")) as engines:
        given = {name: parameters(name) for name in ("clip", "hint", "controlnet", "unet")}
        networks = WatchedNetworks(
            given,
            tokenizer_path=engines.tokenizer_path,
            geometry=engines.geometry,
            noise_schedule=engines.noise_schedule,
            device=torch.device("cpu"),
        )
        found = calibrated(networks, given, SubjectSource().subjects(64, 64)[:1])
    for component in ("controlnet", "unet"):
        for name, observer in networks.observers[component].items():
            assert observer.values > 0 or name.endswith(("to_k", "to_v")), name
            assert int(observer.clipped) == 0
    return found


def test_calibration_gives_each_layer_the_largest_input_that_it_met(scales: dict[str, dict[str, float]]) -> None:
    assert {name: set(each) for name, each in scales.items()} == {
        name: set(layer_names(name, parameters(name))) for name in ("controlnet", "unet")
    }
    for each in scales.values():
        assert all(0 < scale * LARGEST < 1e4 * MARGIN for scale in each.values())
        for name in each:
            if name.endswith("attn1.to_q"):
                stem = name.removesuffix("to_q")
                assert each[name] == each[f"{stem}to_k"] == each[f"{stem}to_v"]


@pytest.mark.parametrize("component", ["controlnet", "unet"])
def test_a_quantized_network_stays_near_the_one_it_was_made_from(
    component: str, scales: dict[str, dict[str, float]]
) -> None:
    with load_engine_set(tiny_engine_set("torch")) as engines:
        inputs = likely_inputs(engines.manifest.components[component].spec, 2, height=64, width=64)
    expected = ENGINES[component](parameters(component, torch.float32))(inputs)
    small = quantized(parameters(component), scales[component])
    name = next(iter(scales[component]))
    assert small.tensors[f"{name}.weight"].dtype == QUANTIZED
    assert small.tensors[f"{name}.{WEIGHT_SCALE}"].shape == (small.tensors[f"{name}.weight"].shape[0],)
    assert float(small.tensors[f"{name}.{INPUT_SCALE}"]) == pytest.approx(scales[component][name])
    half = {key: tensor.half() if tensor.is_floating_point() else tensor for key, tensor in inputs.items()}
    found = ENGINES[component](small)(half)
    for key in expected:
        # Random weights spread rounding errors: the demo model's U-Net is off by 0.02.
        assert 1e-4 < distance(found[key], expected[key]) < 0.3, key


def recipe(shape: str = "64x64", pictures: str = "pictures") -> Recipe:
    versions = dict.fromkeys(("torch", "diffusers", "transformers", "triton"), "1")
    profiles = (Profile.parse(shape, max_batch=1),)
    return Recipe("triton", "triton", "fp8", profiles, "sm90", versions, calibration=pictures)


def key(component: str, of: Recipe, additions: Additions = NOTHING) -> str:
    """Of a component's constants, as a build computes it."""
    folder = tiny_model()
    weights = find_weights(str(folder / "model"), str(folder / "controlnet"))
    builder: Any = SimpleNamespace(context=SimpleNamespace(weights=replace(weights, additions=additions)))
    return _Builder._key(builder, component, registry.choose("triton").stages(of, component)[0])


def test_whatever_calibration_reads_is_in_the_key_of_all_quantized_constants(tmp_path: Path) -> None:
    """Scales come from pictures that all networks draw together: none may be taken over from other pictures."""
    (tmp_path / "file").write_bytes(b"weights")
    lora = Additions(loras=(Lora(tmp_path / "file", 0.5),))
    others = [recipe("128x64"), recipe(pictures="other pictures")]
    for component in ("controlnet", "unet"):
        plain = key(component, recipe())
        assert plain == key(component, recipe("64x64:64x128"))  # pictures are drawn at the smallest size
        assert plain == key(component, recipe(), Additions(vae=tmp_path / "file"))  # which draws nothing
        changed = [key(component, recipe(), additions) for additions in (lora, Additions(clip_skip=2))]
        changed += [key(component, each) for each in others]
        assert plain not in changed
        assert len(set(changed)) == len(changed)
    assert key("decoder", recipe()) == key("decoder", recipe("128x64"), Additions(clip_skip=2))


def test_calibration_leaves_the_tokenizer_alone_whose_file_another_set_may_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calibration, "STEPS", 1)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "jobs.csv").write_text("image,prompt\na.png,a house\n")
    folder = tiny_model()
    weights = find_weights(str(folder / "model"), str(folder / "controlnet"))
    context = BuildContext(weights, tmp_path, "fp8", SubjectSource(tmp_path / "jobs.csv"))
    context.describe(context.read_geometry())
    before = (tmp_path / TOKENIZER).stat()
    path = save_quantized(context, recipe(), "unet")
    after = (tmp_path / TOKENIZER).stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)
    assert scales_in(path).keys() == set(layer_names("unet", parameters("unet")))


def test_a_set_whose_calibration_lies_elsewhere_now_is_written_again() -> None:
    """The command that builds it again names the CSV."""
    here, there = (Calibration(source=f"/{name}/jobs.csv", digest="ab" * 32, input_scales={}) for name in "ab")
    manifest = load_manifest(tiny_engine_set("torch"))
    old, new = (manifest.model_copy(update={"calibration": each}) for each in (here, there))
    assert _says_the_same(old, old)
    assert not _says_the_same(old, new)
