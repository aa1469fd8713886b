"""The networks written for one GPU, in float32 on the CPU, against diffusers' and transformers' own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from engines.backends import registry
from engines.backends.torch.runtime import TorchEngine
from engines.backends.triton.components import ENGINES
from engines.backends.triton.parameters import Parameters
from engines.backends.triton.runtime import TritonRuntime
from engines.check.verify import likely_inputs
from engines.device import Placement
from engines.engine_set import EngineSet
from engines.errors import BackendUnavailable
from engines.manifest import load_manifest
from engines.model.constants import save_constants
from engines.model.locate import Weights, find_weights
from engines.model.networks import load_component
from engines.spec import COMPONENTS, ComponentSpec, Profile, component_specs
from tests.models import tiny_engine_set, tiny_model

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def weights() -> Weights:
    folder = tiny_model()
    return find_weights(str(folder / "model"), str(folder / "controlnet"))


@pytest.fixture(scope="module")
def specs() -> dict[str, ComponentSpec]:
    components = load_manifest(tiny_engine_set("torch")).components
    return {name: component.spec for name, component in components.items()}


def distance(found: Tensor, expected: Tensor) -> float:
    """Of two tensors, relative to the second."""
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("name", COMPONENTS)
@pytest.mark.parametrize(("batch", "height", "width"), [(1, 64, 64), (3, 128, 192)])
def test_a_network_agrees_with_the_one_it_was_made_from(
    name: str, batch: int, height: int, width: int, weights: Weights, specs: dict[str, ComponentSpec], tmp_path: Path
) -> None:
    module, spec = load_component(name, weights, torch.float32), specs[name]
    parameters = Parameters.load(save_constants(module, tmp_path / "one.safetensors"), CPU)
    inputs = likely_inputs(spec, batch, height=height, width=width)
    given = {key: tensor.clone() for key, tensor in inputs.items()}
    expected, found = TorchEngine(module, spec)(inputs), ENGINES[name](parameters)(given)
    assert list(found) == [tensor.name for tensor in spec.outputs]
    for tensor in spec.outputs:
        assert found[tensor.name].shape == tensor.sized(batch, height=height, width=width)
        assert distance(found[tensor.name], expected[tensor.name]) < 1e-5
    for key, before in inputs.items():
        assert torch.equal(given[key], before), f"{name} wrote into {key}"


@pytest.mark.parametrize("name", ["controlnet", "unet"])
def test_a_prompt_may_have_several_chunks(name: str, weights: Weights, tmp_path: Path) -> None:
    spec = component_specs(load_manifest(tiny_engine_set("torch")).geometry, context_chunks=2)[name]
    module = load_component(name, weights, torch.float32)
    parameters = Parameters.load(save_constants(module, tmp_path / "one.safetensors"), CPU)
    inputs = likely_inputs(spec, 2, height=64, width=64, chunks=2)
    assert inputs["context"].shape[1] == 154
    expected, found = TorchEngine(module, spec)(inputs), ENGINES[name](parameters)(inputs)
    for tensor in spec.outputs:
        assert distance(found[tensor.name], expected[tensor.name]) < 1e-5


def test_a_prediction_is_that_of_the_two_networks_one_after_the_other(
    weights: Weights, specs: dict[str, ComponentSpec], tmp_path: Path
) -> None:
    """Controls stay unscaled and without their biases until they join: the sum is the same."""
    manifest = load_manifest(tiny_engine_set("torch"))
    for name in ("controlnet", "unet"):
        save_constants(load_component(name, weights, torch.float32), tmp_path / f"{name}.safetensors")
        (stage,) = manifest.components[name].stages.values()
        renamed = stage.model_copy(update={"files": {f"{name}.safetensors": ""}})
        manifest.components[name].stages["constants"] = renamed
    runtime = TritonRuntime(tmp_path, manifest, CPU)
    engines = EngineSet(manifest, folder=tmp_path, placement=Placement(CPU, None), runtime=runtime)
    inputs = likely_inputs(specs["controlnet"], 2, height=128, width=64)
    inputs["control_scales"] = torch.rand(4, 13) * 2
    inputs["control_scales"][:2] = 0  # guess mode: the unconditional half gets no control
    controls = engines.engine("controlnet")(inputs)
    expected = engines.engine("unet")(inputs | controls)["latent"]
    assert distance(engines.predict(inputs)["latent"], expected) < 1e-5


def test_pictures_whose_values_32_bits_do_not_count_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engines.backends.triton.backend.build_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device=None: (9, 0))
    monkeypatch.setattr("engines.backends.triton.backend.versions_of", lambda names: dict.fromkeys(names, "1"))
    triton = registry.choose("triton")
    for shape in ("2048x4096", "256x256:2048x4096"):
        profiles = (Profile.parse(shape, max_batch=1),)
        assert triton.recipe(precision="fp16", profiles=profiles, capability=None).profiles == profiles
    larger = (Profile.parse("512x512", max_batch=8), Profile.parse("512x512:2112x4096", max_batch=1))
    with pytest.raises(BackendUnavailable, match=r"8,388,608 pixels.*; 512x512:2112x4096 has larger pictures"):
        triton.recipe(precision="fp16", profiles=larger, capability=None)
