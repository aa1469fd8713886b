"""A backend is all that a folder and a line in the registry make it: here is one that only this file knows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from engines.backends import registry
from engines.backends.protocol import Backend, Engine, Runtime
from engines.backends.recipe import BuildContext, BuildStage, CompileJob, Recipe
from engines.backends.stages import NETWORK_PACKAGES, versions_of
from engines.build.builder import Step, build_set
from engines.build.recipe import recipe_for
from engines.check.verify import verify
from engines.device import Placement
from engines.engine_set import load_engine_set
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.files import write_whole
from engines.manifest import Manifest, Precision, load_manifest
from engines.spec import COMPONENTS, ComponentSpec, Profile
from tests.engines.conftest import Ended
from tests.engines.sets import copy_of_set, edit_manifest, request_for
from tests.models import tiny_model


@dataclass(frozen=True)
class ListJob:
    """A compilation of a kind: it writes down the outputs of its component."""

    component: str
    spec: ComponentSpec
    path: Path
    effort: int = 1

    def compile(self) -> float:
        self.path.parent.mkdir(exist_ok=True)
        write_whole(self.path, json.dumps([tensor.name for tensor in self.spec.outputs]))
        return 0.5


class ToyEngine:
    """A pickled module, and the names that its job wrote down."""

    def __init__(self, module: nn.Module, spec: ComponentSpec, outputs: list[str]) -> None:
        self._module, self._inputs, self._outputs = module, spec.inputs, outputs

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        outputs = self._module(*(inputs[tensor.name] for tensor in self._inputs))
        outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
        return dict(zip(self._outputs, outputs, strict=True))


class ToyRuntime(Runtime):
    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self._folder, self._manifest = folder, manifest

    def open(self, name: str) -> Engine:
        component = self._manifest.components[name]
        ((module,), (names,)) = (stage.files for stage in component.stages.values())
        loaded = torch.load(self._folder / module, weights_only=False)
        return ToyEngine(loaded, component.spec, json.loads((self._folder / names).read_text()))


class ToyBackend(Backend):
    name = "toy"
    precision_help = "fp32"
    compiles = True

    def preference(self, *, gpu: bool) -> int:
        return 9

    def usual_precision(self) -> Precision:
        return "fp32"

    def recipe(self, *, precision: Precision, profiles: Sequence[Profile], capability: str | None) -> Recipe:
        if precision != "fp32":
            raise BackendUnavailable("toys are fp32; use --precision fp32")
        return Recipe(self.name, "torch", precision, tuple(profiles), None, versions_of(NETWORK_PACKAGES))

    def stages(self, recipe: Recipe, component: str) -> tuple[BuildStage, ...]:
        def pickled(context: BuildContext) -> list[Path]:
            path = context.folder / f"{component}.pt"
            torch.save(context.module(component), path)
            return [path]

        def listed(context: BuildContext) -> CompileJob:
            return ListJob(component, context.specs[component], context.folder / "lists" / f"{component}.json")

        return BuildStage("pickle", [1, component], make=pickled), BuildStage("list", [1, component], job=listed)

    def batch_sizes(self, max_batch: int) -> tuple[int, ...]:
        return (max_batch,)

    def kernel_keys(self, recipe: Recipe) -> dict[str, str]:
        return {"toy kernel": "key"}

    def open(self, folder: Path, manifest: Manifest, placement: Placement) -> Runtime:
        return ToyRuntime(folder, manifest)


@pytest.fixture
def toy() -> Iterator[None]:
    registry.register(ToyBackend())
    yield
    registry.unregister("toy")


@pytest.fixture
def folder(tmp_path: Path, toy: None) -> Path:
    steps: list[Step] = []
    request = request_for(tiny_model(), tmp_path / "set", shape="64x64", backend="toy")
    built = build_set(request, steps.append)
    assert (built.steps, built.changed) == (1 + 2 * len(COMPONENTS), True)
    assert {(step.component, step.stage) for step in steps if step.state == "done"} == {
        ("tokenizer", "tokenizer"),
        *((name, stage) for name in COMPONENTS for stage in ("pickle", "list")),
    }
    assert build_set(request).steps == 0
    return tmp_path / "set"


def test_a_set_of_a_backend_that_is_defined_here_is_built_loaded_and_verified(folder: Path) -> None:
    manifest = load_manifest(folder)
    assert (manifest.backend, manifest.kernels) == ("toy", {"toy kernel": "key"})
    assert list(manifest.components["unet"].stages) == ["pickle", "list"]
    with load_engine_set(folder, device="cpu") as engines:
        assert [engines.batch_size(images, 64, 64) for images in (1, 2)] == [2, 2]
    findings = list(verify(folder, device="cpu"))
    assert {finding.component for finding in findings} == set(COMPONENTS)
    assert all(finding.ok and finding.absolute_error < 1e-5 for finding in findings)


def test_its_sets_are_refused_where_it_is_not_registered(tmp_path: Path) -> None:
    folder = copy_of_set(tmp_path)
    edit_manifest(folder, lambda manifest: manifest.update(backend="toy"))
    with pytest.raises(EngineSetRefused, match="is not valid at backend: Input should be 'tensorrt'"):
        load_engine_set(folder)


def test_the_command_line_knows_it(toy: None, engines: Callable[..., Ended], tmp_path: Path) -> None:
    model = tiny_model()
    weights = ["--model", model / "model", "--controlnet", model / "controlnet", "--shape", "64x64", "--max-batch", "1"]
    ended = engines("build", *weights, "--backend", "openvino", "--out", tmp_path / "set")
    known = "'auto', 'tensorrt', 'triton', 'inductor', 'onnxruntime', 'torch', 'toy'"
    assert f"'openvino' is not one of {known}" in ended.err
    ended = engines("build", *weights, "--precision", "fp16", "--out", tmp_path / "set")  # auto
    assert (ended.code, ended.err) == (4, "error: toys are fp32; use --precision fp32")
    ended = engines("build", *weights, "--backend", "toy", "--compute-capability", "sm89", "--out", tmp_path / "set")
    assert "--compute-capability is for tensorrt; toy sets are built on the machine" in ended.err


def test_auto_takes_what_serves_the_machine_best(toy: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert registry.choose("auto").name == "toy"
    registry.unregister("toy")
    try:
        monkeypatch.setattr("engines.backends.registry.has_gpu", lambda: False)
        assert registry.choose("auto").name == "onnxruntime"
        monkeypatch.setattr("engines.backends.registry.has_gpu", lambda: True)
        monkeypatch.setattr("engines.backends.tensorrt.package.is_best", lambda: False)
        assert registry.choose("auto").name == "triton"
        monkeypatch.setattr("engines.backends.tensorrt.package.is_best", lambda: True)
        assert registry.choose("auto").name == "tensorrt"
    finally:
        registry.register(ToyBackend())


def test_an_unknown_name_is_refused_with_those_that_are_known() -> None:
    sentence = "unknown backend 'openvino'; use auto, tensorrt, triton, inductor, onnxruntime, torch"
    with pytest.raises(BackendUnavailable, match=sentence):
        recipe_for("openvino", precision="fp32", profiles=[Profile.parse("64x64", max_batch=1)])


@pytest.mark.parametrize("backend", registry.backends(), ids=lambda backend: backend.name)
def test_folder_class_and_name_agree(backend: Backend) -> None:
    assert type(backend).__module__ == f"engines.backends.{backend.name}.backend"
    assert type(backend).__name__.removesuffix("Backend").lower() == backend.name
