"""Real plans, built by tensorrt-rtx without a GPU, in fp16: what production uses.

They cannot be deserialised without one (TensorRT opens a CUDA stream first), so tensors are checked on the parsed
network, and by name in the plan's bytes.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from engines.backends import registry
from engines.backends.tensorrt import package, plan
from engines.build.builder import BuildRequest, build_set
from engines.build.recipe import recipe_for
from engines.errors import BackendUnavailable, BuildFailed
from engines.manifest import Manifest, load_manifest
from engines.spec import COMPONENTS, Profile
from tests.engines.required import required
from tests.models import CACHE, locked, tiny_engine_set, tiny_model

PROFILES = (Profile.parse("64x64:128x192", max_batch=4), Profile.parse("256x256", max_batch=4))
trt: Any = required("tensorrt_rtx")


@pytest.fixture(scope="module")
def plans() -> Path:
    model = tiny_model()
    out = CACHE / "tensorrt-sm89"
    request = BuildRequest(
        model=str(model / "model"),
        controlnet=str(model / "controlnet"),
        out=out,
        backend="tensorrt",
        precision="fp16",
        profiles=PROFILES[:1],
        compute_capability="sm89",
    )
    with locked(out):
        build_set(request)
    return out


@pytest.fixture(scope="module")
def manifest(plans: Path) -> Manifest:
    return load_manifest(plans)


def parsed(path: Path) -> tuple[Any, Any]:
    log = plan.PlanLog(trt)
    builder = trt.Builder(log.logger)
    return builder, plan.parsed_network(trt, builder, path, log)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_plan_was_built_from_a_network_with_the_tensors_of_the_spec(
    plans: Path, manifest: Manifest, name: str
) -> None:
    spec = manifest.components[name].spec
    _builder, network = parsed(plans / f"{name}.onnx")
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    assert [tensor.name for tensor in inputs] == [tensor.name for tensor in spec.inputs]
    assert [tensor.name for tensor in outputs] == [tensor.name for tensor in spec.outputs]
    for tensor, table in zip([*inputs, *outputs], [*spec.inputs, *spec.outputs], strict=True):
        assert tensor.dtype == (trt.DataType.INT64 if table.dtype == "int64" else trt.DataType.HALF)
        assert len(tensor.shape) == len(table.shape)
    for tensor, table in zip(inputs, spec.inputs, strict=True):
        assert tuple(tensor.shape) == tuple(-1 if isinstance(size, str) else size for size in table.shape)


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_plan_carries_every_tensor_name_and_is_what_the_set_would_load(
    plans: Path, manifest: Manifest, name: str
) -> None:
    component = manifest.components[name]
    assert list(component.files) == [f"{name}.plan"]
    content = (plans / f"{name}.plan").read_bytes()
    for tensor in (*component.spec.inputs, *component.spec.outputs):
        assert tensor.name.encode() in content


@pytest.mark.parametrize("name", COMPONENTS)
def test_a_profile_of_every_component_holds_the_batch_range_and_is_taken_by_tensorrt(
    plans: Path, manifest: Manifest, name: str
) -> None:
    spec = manifest.components[name].spec
    builder, _network = parsed(plans / f"{name}.onnx")
    config = builder.create_builder_config()
    for index, profile in enumerate(PROFILES):
        made = plan.optimization_profile(builder, spec, profile)
        assert config.add_optimization_profile(made) == index
        for tensor in spec.inputs:
            low, best, high = (tuple(shape) for shape in made.get_shape(tensor.name))
            assert low == tensor.sized(1, height=profile.min_height, width=profile.min_width)
            assert best == high == tensor.sized(4, height=profile.max_height, width=profile.max_width)


def test_rows_are_twice_the_images_in_a_profile(manifest: Manifest) -> None:
    builder = trt.Builder(plan.PlanLog(trt).logger)
    made = plan.optimization_profile(builder, manifest.components["unet"].spec, PROFILES[0])
    assert [tuple(shape) for shape in made.get_shape("x_noisy")] == [(2, 4, 8, 8), (8, 4, 16, 24), (8, 4, 16, 24)]
    assert [tuple(shape) for shape in made.get_shape("control12")] == [(2, 32, 1, 1), (8, 32, 2, 3), (8, 32, 2, 3)]


@pytest.mark.parametrize("name", COMPONENTS)
def test_an_fp32_export_is_taken_too(name: str) -> None:
    folder = tiny_engine_set()
    spec = load_manifest(folder).components[name].spec
    _builder, network = parsed(folder / f"{name}.onnx")
    plan.check_network(trt, network, spec, "fp32")
    with pytest.raises(BuildFailed, match=f"{name} has the (inputs|outputs) .* in TensorRT, the spec says"):
        plan.check_network(trt, network, spec, "fp16")


def test_the_set_names_its_gpu_and_is_refused_without_one(plans: Path, manifest: Manifest) -> None:
    from engines.engine_set import load_engine_set

    assert (manifest.architecture, manifest.runtime) == ("sm89", "tensorrt_rtx")
    with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU"):
        load_engine_set(plans, device="cpu")


def test_a_graph_with_other_tensors_is_refused_by_name(manifest: Manifest) -> None:
    _builder, network = parsed(tiny_engine_set() / "hint.onnx")
    with pytest.raises(BuildFailed, match=re.escape("decoder has the inputs [('hint'")):
        plan.check_network(trt, network, manifest.components["decoder"].spec, "fp32")


def test_a_gpu_that_tensorrt_does_not_know_is_refused_with_those_it_knows() -> None:
    if package.package_name() != "tensorrt_rtx":
        pytest.skip("tensorrt builds for the GPU that is here")
    with pytest.raises(BackendUnavailable, match=r"does not build for sm90; it knows sm75.*sm89"):
        package.architecture("sm90")
    with pytest.raises(BackendUnavailable, match="write it as sm89"):
        package.architecture("8.9")


def test_a_graph_that_tensorrt_does_not_take_is_refused_with_its_words(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "hint.onnx").write_bytes(b"no protobuf")
    with pytest.raises(BuildFailed, match=r"TensorRT's parser refused hint.onnx: .+"):
        parsed(tmp_path / "hint.onnx")


def test_tensorrt_for_rtx_gets_one_profile_that_holds_all_and_tensorrt_gets_each() -> None:
    profiles = (Profile.parse("64x64:128x192", max_batch=4), Profile.parse("256x64", max_batch=8))
    (one,) = plan.planned("tensorrt_rtx", profiles)
    assert one.text == "64x64:256x192"
    assert (one.min_batch, one.opt_batch, one.max_batch) == (1, 8, 8)
    assert plan.planned("tensorrt", profiles) == profiles
    assert plan.planned("tensorrt_rtx", profiles[:1]) == profiles[:1]


def test_a_set_may_have_several_profiles(tmp_path: Path, manifest: Manifest) -> None:
    recipe = recipe_for("tensorrt", precision="fp32", profiles=PROFILES, capability="sm86")
    shutil.copy(tiny_engine_set() / "hint.onnx", tmp_path)
    path = plan.build_plan(tmp_path / "hint.onnx", manifest.components["hint"].spec, recipe=recipe)
    assert path == tmp_path / "hint.plan"
    assert path.stat().st_size > 10_000


def test_other_shapes_build_other_plans_from_the_same_export() -> None:
    """Keys only: a plan depends on profile and GPU, an export on neither."""

    def keys(shape: str, capability: str) -> tuple[object, object]:
        profiles = (Profile.parse(shape, max_batch=4),)
        recipe = recipe_for("tensorrt", precision="fp16", profiles=profiles, capability=capability)
        export, plan = registry.choose("tensorrt").stages(recipe, "unet")
        assert (export.name, plan.name) == ("export", "plan")
        return export.inputs, plan.inputs

    export, built = keys("64x64", "sm89")
    for other in (keys("128x128", "sm89"), keys("64x64", "sm86")):
        assert other[0] == export
        assert other[1] != built


def test_on_a_gpu_that_it_does_not_list_an_old_version_is_tried_and_a_new_one_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """1.4.0.76 was seen to run on sm90, 1.7.1 refuses; neither lists it."""
    monkeypatch.setattr(package, "_current_architecture", lambda: "sm90")
    monkeypatch.setattr(package, "package_name", lambda: "tensorrt_rtx")
    monkeypatch.setattr(package, "installed_version", lambda _package: "1.4.0.76")
    assert package.why_not_run() is None
    assert package.architecture(None) == "sm90"
    assert not package.is_best()  # it runs, at less than half the speed of triton's
    package.check_precision("sm90", "fp16")
    package.check_precision("sm89", "fp32")
    with pytest.raises(BackendUnavailable, match="does not list sm90, and there it multiplies float32 with the ten"):
        package.check_precision("sm90", "fp32")
    monkeypatch.setattr(package, "installed_version", lambda _package: "1.7.1.116")
    assert package.why_not_run() == "tensorrt_rtx does not support its compute capability, sm90"
    with pytest.raises(BackendUnavailable, match="tensorrt_rtx does not build for sm90"):
        package.architecture(None)


def test_on_a_gpu_that_it_lists_it_is_the_best_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "_current_architecture", lambda: "sm89")
    monkeypatch.setattr(package, "package_name", lambda: "tensorrt_rtx")
    assert package.is_best()


def test_auto_takes_tensorrt_for_rtx_where_it_lists_the_card_and_triton_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(registry, "has_gpu", lambda: True)
    for reason, best in ((None, "tensorrt"), ("it is not installed", "triton")):
        monkeypatch.setattr(package, "why_not_run", lambda reason=reason: reason)
        monkeypatch.setattr(package, "package_name", lambda: "tensorrt_rtx")
        monkeypatch.setattr(package, "_listed", lambda _package: True)
        assert registry.choose("auto").name == best
        assert registry.choose("triton").name == "triton"
