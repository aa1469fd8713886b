"""Sets whose prompts may have several chunks: how they are built, written, exported and checked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engines.backends import registry
from engines.backends.onnxruntime.runtime import OnnxEngine, session_options
from engines.backends.recipe import BuildContext
from engines.backends.tensorrt import plan
from engines.build.recipe import recipe_for
from engines.check.verify import likely_inputs, long_prompts
from engines.engine_set import load_engine_set
from engines.errors import EngineSetRefused
from engines.manifest import MANIFEST, Manifest, load_manifest
from engines.model.locate import find_weights
from engines.spec import COMPONENTS, Profile, component_specs
from tests.engines.conftest import Ended
from tests.engines.required import required
from tests.engines.sets import edit_manifest
from tests.models import tiny_engine_set, tiny_model

WITH_CONTEXT = ("controlnet", "unet")


@pytest.fixture(scope="module")
def folder() -> Path:
    return tiny_engine_set("torch", shapes=("64x64",), max_batch=2, context_chunks=8)


def build(out: Path, *options: object) -> list[object]:
    model = tiny_model()
    weights = ("--model", model / "model", "--controlnet", model / "controlnet")
    return ["build", *weights, "--shape", "64x64", "--max-batch", 2, "--backend", "torch", "--out", out, *options]


def test_the_option_is_recorded_and_another_number_runs_no_stage_again(
    engines: Callable[..., Ended], folder: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(folder, tmp_path / "set"))
    assert engines(*build(out, "--context-chunks", 8)).err == f"{out}: everything is up to date"
    manifest = json.loads((out / MANIFEST).read_text())
    assert [profile["max_context_chunks"] for profile in manifest["profiles"]] == [8]

    for chunks, option in ((3, ["--context-chunks", 3]), (1, [])):
        built = json.loads(engines(*build(out, *option)).out)
        assert (built["stages_run"], built["digest"] != load_manifest(folder).digest) == (0, True)
        assert load_manifest(out).context_chunks == chunks
    assert "context_chunks" not in (out / MANIFEST).read_text()
    assert engines(*build(out, "--context-chunks", 0)).code == 2
    assert engines(*build(out, "--context-chunks", 65)).code == 2


def test_a_manifest_tells_how_it_was_built_and_how_long_prompts_may_be(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert "--context-chunks 8" in manifest.build_command(Path("out"))
    assert manifest.components["unet"].spec == component_specs(manifest.geometry, context_chunks=8)["unet"]
    assert (manifest.context_chunks_at(64, 64), manifest.context_chunks_at(64, 128)) == (8, 0)
    small = Profile.parse("64x64:128x128", max_batch=1, context_chunks=2)
    both = manifest.model_copy(update={"profiles": (*manifest.profiles, small)})
    assert (both.context_chunks_at(64, 64), both.context_chunks_at(128, 128), both.context_chunks) == (8, 2, 8)


def test_a_manifest_whose_profiles_and_tensors_disagree_is_refused(folder: Path, tmp_path: Path) -> None:
    for name, change in {
        "short": lambda manifest: manifest["profiles"][0].pop("max_context_chunks"),
        "none": lambda manifest: manifest["profiles"][0].update(max_context_chunks=0),
    }.items():
        (tmp_path / name).mkdir()
        shutil.copy(folder / MANIFEST, tmp_path / name)
        edit_manifest(tmp_path / name, change)
        with pytest.raises(EngineSetRefused, match=r"other tensors|max_context_chunks"):
            load_manifest(tmp_path / name)


def test_verify_looks_at_the_longest_prompts_of_components_that_see_them(folder: Path) -> None:
    manifest = load_manifest(folder)
    wanted = {name: long_prompts(manifest, manifest.components[name].spec) for name in COMPONENTS}
    assert wanted == {name: [(8, (1, 64, 64))] if name in WITH_CONTEXT else [] for name in COMPONENTS}
    usual = load_manifest(tiny_engine_set())
    assert not any(long_prompts(usual, usual.components[name].spec) for name in COMPONENTS)


def exported(name: str, backend: str, folder: Path) -> tuple[Path, BuildContext]:
    """A component's ONNX graph for prompts of up to three chunks, in float32."""
    model = tiny_model()
    weights = find_weights(str(model / "model"), str(model / "controlnet"))
    profiles = (Profile.parse("64x64:64x128", max_batch=2, context_chunks=3),)
    capability = "sm89" if backend == "tensorrt" else None
    recipe = recipe_for(backend, precision="fp32", profiles=profiles, capability=capability)
    context = BuildContext(weights, folder, "fp32")
    context.describe(usual().geometry, context_chunks=recipe.context_chunks)
    make = registry.choose(backend).stages(recipe, name)[0].make
    assert make is not None
    (path,) = make(context)
    return path, context


def usual() -> Manifest:
    return load_manifest(tiny_engine_set("torch"))


def test_onnxruntime_agrees_with_torch_at_lengths_that_were_not_traced(tmp_path: Path) -> None:
    import onnxruntime

    path, context = exported("controlnet", "onnxruntime", tmp_path)
    session = onnxruntime.InferenceSession(str(path), session_options(1), providers=["CPUExecutionProvider"])
    spec = context.specs["controlnet"]
    engine = OnnxEngine(session, spec)
    with load_engine_set(tiny_engine_set("torch"), device="cpu", threads=1) as reference:
        for chunks in (1, 3):
            inputs = likely_inputs(spec, 1, height=64, width=128, chunks=chunks)
            expected, found = reference.engine("controlnet")(inputs), engine(inputs)
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)


def test_tensorrt_takes_the_context_as_a_range_of_a_profile(tmp_path: Path) -> None:
    trt = required("tensorrt_rtx")
    path, context = exported("controlnet", "tensorrt", tmp_path)
    spec, profile = context.specs["controlnet"], Profile.parse("64x64", max_batch=2, context_chunks=3)
    log = plan.PlanLog(trt)
    builder = trt.Builder(log.logger)
    network = plan.parsed_network(trt, builder, path, log)
    plan.check_network(trt, network, spec, "fp32")
    made = plan.optimization_profile(builder, spec, profile)
    assert builder.create_builder_config().add_optimization_profile(made) == 0
    width = context.specs["clip"].outputs[0].shape[2]
    assert [tuple(shape) for shape in made.get_shape("context")] == [(2, 77, width), (4, 77, width), (4, 231, width)]


def test_the_one_profile_of_tensorrt_for_rtx_holds_the_longest_prompts() -> None:
    profiles = [Profile.parse("64x64", max_batch=2, context_chunks=chunks) for chunks in (1, 3)]
    (one,) = plan.planned("tensorrt_rtx", profiles)
    assert one.max_context_chunks == 3


def test_stages_that_prompts_do_not_reach_are_those_of_a_set_for_short_ones() -> None:
    def keys(backend: str, chunks: int) -> dict[str, list[list[object]]]:
        profiles = [Profile.parse("64x64", max_batch=1, context_chunks=chunks)]
        capability = "sm89" if backend == "tensorrt" else None
        precision = "fp16" if backend == "tensorrt" else "fp32"
        recipe = recipe_for(backend, precision=precision, profiles=profiles, capability=capability)  # type: ignore[arg-type]
        return {name: [one.inputs for one in registry.choose(backend).stages(recipe, name)] for name in COMPONENTS}

    for backend in ("onnxruntime", "torch", "tensorrt"):
        one, two, three = (keys(backend, chunks) for chunks in (1, 2, 3))
        for name in COMPONENTS:
            is_same = name not in WITH_CONTEXT or backend == "torch"
            assert (one[name] == two[name]) == is_same, (backend, name)
            assert two[name][0] == three[name][0], "the same export serves any number"
