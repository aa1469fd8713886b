"""Real plans, built by tensorrt-rtx without a GPU.

They cannot be deserialised without one (TensorRT opens a CUDA stream first), so tensors are checked on the parsed
network, and by name in the plan's bytes.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from engines import plan
from engines.build import BuildRequest, build_set
from engines.errors import BackendUnavailable, BuildFailed
from engines.manifest import Manifest, load_manifest
from engines.spec import COMPONENTS, Profile
from tests.models import CACHE, tiny_engine_set, tiny_model

trt: Any = pytest.importorskip("tensorrt_rtx", reason="plans are built with tensorrt-rtx here; it is not installed")

PROFILES = (Profile.parse("64x64:128x192", max_batch=4),)


@pytest.fixture(scope="module")
def plans() -> Path:
    model = tiny_model()
    out = CACHE / "tensorrt-sm89"
    request = BuildRequest(
        model=str(model / "model"),
        controlnet=str(model / "controlnet"),
        out=out,
        backend="tensorrt",
        precision="fp32",
        profiles=PROFILES,
        compute_capability="sm89",
    )
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
        assert tensor.dtype == (trt.DataType.INT64 if table.dtype == "int64" else trt.DataType.FLOAT)
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


def test_profiles_hold_the_batch_range_in_rows(manifest: Manifest) -> None:
    spec = manifest.components["unet"].spec
    builder = trt.Builder(plan.PlanLog(trt).logger)
    made = plan._optimization_profile(builder, spec, PROFILES[0])
    assert [tuple(shape) for shape in made.get_shape("x_noisy")] == [(2, 4, 8, 8), (8, 4, 16, 24), (8, 4, 16, 24)]
    assert [tuple(shape) for shape in made.get_shape("control12")] == [(2, 32, 1, 1), (8, 32, 2, 3), (8, 32, 2, 3)]


def test_the_set_names_its_gpu_and_is_refused_without_one(plans: Path, manifest: Manifest) -> None:
    from engines.runtime import load_engine_set

    assert (manifest.architecture, manifest.runtime) == ("sm89", "tensorrt_rtx")
    with pytest.raises(BackendUnavailable, match="needs an NVIDIA GPU"):
        load_engine_set(plans, device="cpu")


def test_a_graph_with_other_tensors_is_refused_by_name(manifest: Manifest) -> None:
    _builder, network = parsed(tiny_engine_set() / "hint.onnx")
    with pytest.raises(BuildFailed, match=re.escape("decoder has the inputs [('hint'")):
        plan.check_network(trt, network, manifest.components["decoder"].spec, "fp32")


def test_a_gpu_that_tensorrt_does_not_know_is_refused_with_those_it_knows() -> None:
    if plan.package_name() != "tensorrt_rtx":
        pytest.skip("tensorrt builds for the GPU that is here")
    with pytest.raises(BackendUnavailable, match=r"does not build for sm90; it knows sm75.*sm89"):
        plan.architecture("sm90")
    with pytest.raises(BackendUnavailable, match="write it as sm89"):
        plan.architecture("8.9")
