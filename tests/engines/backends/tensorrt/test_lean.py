"""Plans for TensorRT's lean runtime. They are built by the full `tensorrt`, which does not install from PyPI: here
`tensorrt_rtx` stands in for it, which has the same API and takes the same flags. None has run.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from engines.backends import registry
from engines.backends.recipe import Recipe
from engines.backends.tensorrt import package, plan
from engines.build.recipe import recipe_for
from engines.device import Placement
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.fit import check_installed, check_version
from engines.manifest import Manifest, load_manifest
from engines.spec import Profile
from tests.engines.required import required
from tests.models import tiny_engine_set

PROFILES = (Profile.parse("64x64:128x128", max_batch=2), Profile.parse("256x256", max_batch=1))
FULL = Recipe("tensorrt", "tensorrt", "fp32", PROFILES, "sm90", {"onnx": "1", "tensorrt": "11.4.0.106"})
BACKEND = registry.choose("tensorrt")


@pytest.fixture
def manifest() -> Manifest:
    """Of a set for the lean runtime, as a build would write it."""
    lean = BACKEND.version_compatible(FULL)
    fields = {"backend": "tensorrt", "runtime": lean.runtime, "architecture": "sm90", "versions": lean.versions}
    return load_manifest(tiny_engine_set()).model_copy(update=fields)


def installed(monkeypatch: pytest.MonkeyPatch, versions: Mapping[str, str]) -> None:
    monkeypatch.setattr(package, "installed_version", versions.get)


def test_the_set_names_the_lean_runtime_of_the_builders_version() -> None:
    lean = BACKEND.version_compatible(FULL)
    assert (lean.runtime, lean.versions) == ("tensorrt_lean", FULL.versions | {"tensorrt_lean": "11.4.0.106"})
    assert plan.planned(lean.runtime, PROFILES) == PROFILES
    (export, built), (same, other) = BACKEND.stages(FULL, "unet"), BACKEND.stages(lean, "unet")
    assert (export.inputs, built.inputs == other.inputs) == (same.inputs, False)


def test_the_plan_is_version_compatible_and_holds_no_runtime(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: Manifest
) -> None:
    trt = required("tensorrt_rtx")
    configs: list[Any] = []

    class Builder(trt.Builder):  # type: ignore[misc,name-defined]
        def create_builder_config(self) -> Any:
            configs.append(super().create_builder_config())
            configs[-1].num_compute_capabilities = 1  # there is no GPU here
            configs[-1].set_compute_capability(trt.ComputeCapability.SM89, 0)
            return configs[-1]

    asked: list[str] = []
    stand_in = SimpleNamespace(**(vars(trt) | {"Builder": Builder}))

    def module(name: str) -> Any:
        asked.append(name)
        return stand_in

    monkeypatch.setattr(plan, "tensorrt_module", module)
    shutil.copy(tiny_engine_set() / "hint.onnx", tmp_path)
    spec = manifest.components["hint"].spec
    for recipe, compatible in ((FULL, False), (BACKEND.version_compatible(FULL), True)):
        plan.build_plan(tmp_path / "hint.onnx", spec, recipe=recipe)
        flags = trt.BuilderFlag.VERSION_COMPATIBLE, trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME
        assert [configs[-1].get_flag(flag) for flag in flags] == [compatible] * 2
    assert asked == ["tensorrt"] * 2  # the lean runtime has no builder


def test_it_is_loaded_where_only_the_lean_runtime_of_that_version_is_installed(
    manifest: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("tensorrt_lean", "tensorrt_lean_cu13", "tensorrt_lean_cu12"):
        installed(monkeypatch, {name: "11.4.0.106"})
        check_version(manifest, BACKEND.installed_version("tensorrt_lean"))
    installed(monkeypatch, {"tensorrt": "11.4.0.106"})
    with pytest.raises(BackendUnavailable, match=r"needs the package tensorrt_lean \(11.4.0.106\), which is not inst"):
        check_installed(manifest, BACKEND.installed_version("tensorrt_lean"))
    installed(monkeypatch, {"tensorrt_lean_cu13": "11.5.0.1"})
    with pytest.raises(EngineSetRefused, match=r"built for tensorrt_lean 11.4.0.106, but 11.5.0.1 is installed; build"):
        check_version(manifest, BACKEND.installed_version("tensorrt_lean"))


@pytest.mark.parametrize("installed_as", ["tensorrt", "tensorrt_cu13", "tensorrt_cu12"])
def test_the_builder_is_found_under_the_name_of_a_cuda_version_too(
    installed_as: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, {installed_as: "11.4.0.106"})
    monkeypatch.setattr(package, "_current_architecture", lambda: "sm90")
    recipe = BACKEND.recipe(precision="fp16", profiles=PROFILES, capability=None)
    assert (recipe.runtime, recipe.versions["tensorrt"]) == ("tensorrt", "11.4.0.106")


def test_the_lean_package_alone_is_imported(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(package, "tensorrt_module", asked.append)
    BACKEND.check(Path("a-set"), manifest, Placement(torch.device("cuda"), None))
    assert asked == ["tensorrt_lean"]


def test_where_only_the_lean_runtime_is_installed_nothing_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, {"tensorrt_lean": "11.4.0.106"})
    with pytest.raises(BackendUnavailable, match="neither tensorrt nor tensorrt-rtx is installed"):
        package.package_name()
    assert not package.is_best()


def test_the_command_that_builds_it_again_says_so(manifest: Manifest) -> None:
    assert "--version-compatible" in manifest.build_command(Path("out")).split()
    full = manifest.model_copy(update={"runtime": "tensorrt"})
    assert "--version-compatible" not in full.build_command(Path("out")).split()


def test_packages_that_have_no_lean_runtime_are_refused() -> None:
    required("tensorrt_rtx")
    with pytest.raises(BackendUnavailable, match="for the full tensorrt, and tensorrt_rtx is what is installed here"):
        BACKEND.version_compatible(replace(FULL, runtime="tensorrt_rtx"))
    with pytest.raises(BackendUnavailable, match="--version-compatible is for tensorrt; onnxruntime loads what it"):
        recipe_for("onnxruntime", precision="fp32", profiles=PROFILES, version_compatible=True)
