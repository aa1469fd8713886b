"""The inductor backend: which packages there are, what decides that one is made again, padding, and a real package."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast
from weakref import WeakValueDictionary

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from engines.backends import registry
from engines.backends.inductor.packages import SUFFIX, Package, PackageJob, compile_package, load_code, load_constants
from engines.backends.inductor.runtime import InductorEngine, InductorRuntime, open_set
from engines.backends.inductor.sizes import Size, batch_sizes, single_sizes, sizes_of
from engines.build.compile import compile_all
from engines.build.recipe import recipe_for
from engines.device import Placement
from engines.errors import BackendUnavailable, BuildFailed, EngineSetRefused
from engines.files import file_sha256
from engines.manifest import Manifest
from engines.model.constants import save_constants
from engines.model.locate import find_weights
from engines.model.networks import load_component
from engines.spec import Geometry, Profile, component_specs
from tests.models import tiny_model

SHAPES = tuple(Profile.parse(text, max_batch=8) for text in ("512x512", "256x384"))


@given(st.integers(1, 256))
def test_a_batch_is_padded_to_less_than_twice_its_size(batch: int) -> None:
    sizes = batch_sizes(256)
    assert batch <= next(size for size in sizes if size >= batch) < 2 * batch


def test_the_largest_batch_is_always_built() -> None:
    assert batch_sizes(8) == (1, 2, 4, 8)
    assert batch_sizes(6) == (1, 2, 4, 6)
    assert batch_sizes(1) == (1,)


def test_a_stage_s_name_tells_its_size() -> None:
    for size in (Size(8, 512, 768), Size(4), Size(2, 64, 64, 3)):
        assert Size.of_stage(size.stage) == size
    assert Size.of_stage("export") is None


def test_every_shape_and_batch_has_a_package_and_text_has_one_a_batch() -> None:
    assert [size.stage for size in sizes_of("clip", SHAPES)] == ["batch1", "batch2", "batch4", "batch8"]
    assert len(sizes_of("unet", SHAPES)) == 8
    assert Size(8, 256, 384) in sizes_of("unet", SHAPES)


def test_each_number_of_chunks_has_a_package_of_the_components_that_see_prompts() -> None:
    (profile,) = longer = (Profile.parse("64x128", max_batch=2, context_chunks=3),)
    assert [size.stage for size in sizes_of("unet", longer)] == [
        *("64x128-batch1", "64x128-batch1-context2", "64x128-batch1-context3"),
        *("64x128-batch2", "64x128-batch2-context2", "64x128-batch2-context3"),
    ]
    shorter = (profile.model_copy(update={"max_context_chunks": 1}),)
    assert set(sizes_of("controlnet", shorter)) < set(sizes_of("controlnet", longer))
    for name in ("clip", "hint", "decoder"):
        assert sizes_of(name, longer) == sizes_of(name, shorter)


def test_packages_of_short_prompts_are_reused_in_a_set_for_long_ones() -> None:
    def stages(chunks: int) -> dict[str, list[object]]:
        profiles = [Profile.parse("64x64", max_batch=1, context_chunks=chunks)]
        recipe = recipe_for("inductor", precision="fp32", profiles=profiles, capability=None)
        return {stage.name: stage.inputs for stage in registry.choose("inductor").stages(recipe, "unet")}

    one, two = stages(1), stages(2)
    assert set(two) - set(one) == {"64x64-batch1-context2"}
    assert {name: two[name] for name in one} == one


def test_a_range_of_shapes_becomes_the_sizes_in_it() -> None:
    """A package is compiled for one size; where two profiles cover a size, the first one draws it."""
    profiles = (Profile.parse("64x128", max_batch=1), Profile.parse("64x64:128x128", max_batch=2))
    recipe = recipe_for("inductor", precision="fp32", profiles=profiles, capability=None)
    assert [(each.text, each.max_batch) for each in recipe.profiles] == [
        *(("64x128", 1), ("64x64", 2), ("128x64", 2), ("128x128", 2)),
    ]
    assert [size.stage for size in sizes_of("unet", recipe.profiles)] == [
        *("64x128-batch1", "64x64-batch1", "64x64-batch2"),
        *("128x64-batch1", "128x64-batch2", "128x128-batch1", "128x128-batch2"),
    ]


def test_a_range_of_too_many_sizes_is_refused_with_their_number() -> None:
    with pytest.raises(BackendUnavailable, match=r"1024x1024 is a range of 169, and at most 32 .* its own --shape"):
        single_sizes([Profile.parse("256x256:1024x1024", max_batch=1)])


def test_a_package_is_made_again_when_what_it_is_compiled_from_changes() -> None:
    recipe = recipe_for("inductor", precision="fp32", profiles=SHAPES, capability=None)
    half = recipe_for("inductor", precision="fp16", profiles=SHAPES, capability=None)
    unet, controlnet, in_half = (
        [stage for stage in registry.choose("inductor").stages(each, name) if stage.job is not None]
        for each, name in ((recipe, "unet"), (recipe, "controlnet"), (half, "unet"))
    )
    assert unet[0].inputs != unet[-1].inputs
    assert (unet[0].name, controlnet[0].name, in_half[0].name) == ("512x512-batch1",) * 3
    assert unet[0].inputs != controlnet[0].inputs
    assert unet[0].inputs != in_half[0].inputs


def test_packages_fit_every_checkpoint_of_the_same_widths(tmp_path: Path) -> None:
    folder = tiny_model()
    weights = find_weights(str(folder / "model"), str(folder / "controlnet"))
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    with (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").open("ab") as file:
        file.write(b" ")
    other = find_weights(str(tmp_path / "model"), str(tmp_path / "controlnet"))
    assert other.digest != weights.digest
    assert other.config_digest == weights.config_digest


def _doubling(size: Size, calls: list[Size]) -> Package:
    def package(*inputs: Tensor) -> tuple[Tensor, ...]:
        assert inputs[0].shape[0] == 2 * size.batch
        calls.append(size)
        return tuple(inputs[0] * 2 for _ in range(13))

    return package


@pytest.mark.parametrize(("images", "used"), [(1, 1), (2, 2), (3, 4), (4, 4)])
def test_a_batch_runs_in_the_smallest_package_that_takes_it(images: int, used: int) -> None:
    spec = component_specs(Geometry())["controlnet"]
    calls: list[Size] = []
    packages = {size: _doubling(size, calls) for size in (Size(1, 64, 64), Size(2, 64, 64), Size(4, 64, 64))}
    engine = InductorEngine(packages, packages.__getitem__, spec)
    inputs = {tensor.name: torch.randn(tensor.sized(images, height=64, width=64)) for tensor in spec.inputs}
    outputs = engine(inputs)
    assert calls == [Size(used, 64, 64)]
    assert torch.equal(outputs["control0"], inputs["x_noisy"] * 2)


@pytest.mark.parametrize("chunks", [1, 2])
def test_a_batch_runs_in_the_package_of_its_prompts_length(chunks: int) -> None:
    spec = component_specs(Geometry(), context_chunks=2)["controlnet"]
    calls: list[Size] = []
    packages = {size: _doubling(size, calls) for size in (Size(2, 64, 64), Size(2, 64, 64, 2))}
    engine = InductorEngine(packages, packages.__getitem__, spec)

    def inputs(number: int) -> dict[str, Tensor]:
        return {one.name: torch.zeros(one.sized(1, height=64, width=64, chunks=number)) for one in spec.inputs}

    engine(inputs(chunks))
    assert calls == [Size(2, 64, 64, chunks)]
    with pytest.raises(ValueError, match=r"not built for 64x64-batch1-context3, only: 64x64-batch2, 64x64-batch2-con"):
        engine(inputs(3))


def _not_needed(size: Size) -> Package:
    pytest.fail(f"{size.stage} was opened")


def test_a_size_that_was_not_built_is_named_with_those_that_were() -> None:
    spec = component_specs(Geometry())["decoder"]
    engine = InductorEngine([Size(2, 64, 64)], _not_needed, spec)
    with pytest.raises(ValueError, match="decoder was not built for 64x128-batch1, only: 64x64-batch2"):
        engine({"latent": torch.zeros(1, 4, 8, 16)})


@dataclass(frozen=True)
class Clip:
    """A text encoder as a set has it: one package, and its weights."""

    module: nn.Module
    runtime: InductorRuntime
    package: Path
    constants: Path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    folder = tmp_path_factory.mktemp("set")
    model = tiny_model()
    weights = find_weights(str(model / "model"), str(model / "controlnet"))
    module = load_component("clip", weights, torch.float32)
    text_encoder: Any = module.text_encoder
    spec = component_specs(Geometry(context_width=text_encoder.config.hidden_size))["clip"]
    path = folder / "packages" / f"clip-batch2{SUFFIX}"
    job = PackageJob("clip", Size(2), spec, weights, torch.float32, "cpu", path)
    ((done, seconds),) = compile_all([job], processes=1)
    assert done == job
    assert seconds > 0
    constants = save_constants(module, folder / "constants" / "clip.safetensors")
    files = {"constants": constants, Size(2).stage: path}
    shas = {stage: {str(each.relative_to(folder)): file_sha256(each)} for stage, each in files.items()}
    stages = {stage: SimpleNamespace(files=each) for stage, each in shas.items()}
    manifest = cast(Manifest, SimpleNamespace(components={"clip": SimpleNamespace(spec=spec, stages=stages)}))
    runtime = open_set(folder, manifest, Placement(torch.device("cpu"), threads=None))
    return Clip(module, runtime, path, constants)


def test_a_compiled_package_agrees_with_torch_on_weights_given_when_it_is_loaded(clip: Clip) -> None:
    ids = torch.randint(0, 400, (1, 77))
    expected = clip.module(ids)
    for _ in range(2):  # as when the component left the device and came back
        found = clip.runtime.open("clip")({"input_ids": ids})["last_hidden_state"]
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_that_a_package_wants_and_does_not_get_are_named(clip: Clip) -> None:
    constants = load_constants(clip.constants, torch.device("cpu"))
    name = "text_encoder.final_layer_norm.weight"
    del constants[name]
    with pytest.raises(ValueError, match=f"wants weights that the set does not have: {name}"):
        load_code(clip.package, torch.device("cpu")).bound(constants)


def test_a_package_of_another_torch_is_refused_with_what_to_do(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.codecache.torch_key", lambda: b"another")
    monkeypatch.setattr(clip.runtime, "_codes", {})
    monkeypatch.setattr("engines.backends.inductor.runtime._shared", WeakValueDictionary())
    with pytest.raises(
        EngineSetRefused, match=r"clip-batch2\S+: it was compiled by another torch; build the set again"
    ):
        clip.runtime.open("clip")({"input_ids": torch.zeros(1, 77, dtype=torch.int64)})


def test_a_package_that_was_changed_since_the_set_was_checked_is_not_loaded(
    clip: Clip, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Packages are loaded when a batch first needs them: that may be hours later, after another build."""
    whole = shutil.copytree(clip.package.parents[1], tmp_path / "set")
    with (whole / "packages" / clip.package.name).open("ab") as file:
        file.write(b" ")
    monkeypatch.setattr(clip.runtime, "_folder", whole)
    monkeypatch.setattr(clip.runtime, "_codes", {})
    monkeypatch.setattr("engines.backends.inductor.runtime._shared", WeakValueDictionary())
    with pytest.raises(EngineSetRefused, match=r"clip-batch2\S+ was changed after it was checked at the start"):
        clip.runtime.open("clip")({"input_ids": torch.zeros(1, 77, dtype=torch.int64)})


def test_what_cannot_be_compiled_is_named(tmp_path: Path) -> None:
    folder = tiny_model()
    weights = find_weights(str(folder / "model"), str(folder / "controlnet"))
    spec = component_specs(Geometry(context_width=1))["decoder"].model_copy(update={"inputs": ()})
    job = PackageJob("decoder", Size(1, 64, 64), spec, weights, torch.float32, "cpu", tmp_path / "decoder.zip")
    with pytest.raises(BuildFailed, match="torch could not compile decoder for 64x64-batch1"):
        compile_package(job)
