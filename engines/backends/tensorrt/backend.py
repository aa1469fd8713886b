"""TensorRT, as the registry knows it: plans built for one GPU from ONNX exports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines.backends.protocol import Backend, Runtime
from engines.backends.recipe import BuildContext, BuildStage, Recipe
from engines.backends.stages import EXPORT_PACKAGES, WITH_CONTEXT, export_stage, versions_of
from engines.backends.tensorrt import package
from engines.backends.tensorrt.plan import build_plan, planned
from engines.device import Placement
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.manifest import Manifest, Precision
from engines.spec import Profile

# Raise it when plans differ although their inputs are the same.
PLAN_REVISION = 2


class TensorRTBackend(Backend):
    """Sets hold one plan a component, made by `tensorrt` or `tensorrt_rtx`, whichever is installed."""

    name = "tensorrt"
    precision_help = "fp16"
    takes_capability = True

    def preference(self, *, gpu: bool) -> int:
        """The best choice for a GPU that it has kernels for."""
        return 3 if gpu and package.is_best() else 0

    def usual_precision(self) -> Precision:
        """float16: twice as fast."""
        return "fp16"

    def recipe(self, *, precision: Precision, profiles: Sequence[Profile], capability: str | None) -> Recipe:
        """A recipe for the GPU that `capability` names, or for the one that is here."""
        runtime, architecture = package.package_name(), package.architecture(capability)
        package.check_precision(architecture, precision)
        versions = versions_of(EXPORT_PACKAGES) | {runtime: str(package.version_of(runtime))}
        return Recipe(self.name, runtime, precision, tuple(profiles), architecture, versions)

    def version_compatible(self, recipe: Recipe) -> Recipe:
        """The same plans for `tensorrt_lean` of the builder's version."""
        if recipe.runtime != "tensorrt":
            raise BackendUnavailable(
                f"--version-compatible is for the full tensorrt, and {recipe.runtime} is what is installed here: its "
                "plans run with the version that built them only"
            )
        versions = recipe.versions | {package.LEAN: recipe.versions[recipe.runtime]}
        return replace(recipe, runtime=package.LEAN, versions=versions)

    def installed_version(self, runtime: str) -> str | None:
        """Also where only the package of one CUDA version is installed, such as tensorrt-lean-cu13."""
        return package.version_of(runtime)

    def stages(self, recipe: Recipe, component: str) -> tuple[BuildStage, ...]:
        """An export, and the plan that is built from it."""
        return export_stage(recipe, component), _plan_stage(recipe, component)

    def check(self, folder: Path, manifest: Manifest, placement: Placement) -> None:
        """The package must load, and cuda-python be there."""
        del placement
        if manifest.runtime not in package.RUNTIMES:
            raise EngineSetRefused(f"{folder} is not valid at runtime: {manifest.runtime!r} is not a TensorRT package")
        package.tensorrt_module(manifest.runtime)
        package.cuda_runtime()

    def open(self, folder: Path, manifest: Manifest, placement: Placement) -> Runtime:
        """Needs the package that built the set, and cuda-python."""
        from engines.backends.tensorrt.runtime import open_set

        return open_set(folder, manifest, placement)


def _plan_stage(recipe: Recipe, component: str) -> BuildStage:
    profiles = [profile.model_dump() for profile in planned(recipe.runtime, recipe.profiles)]
    if component not in WITH_CONTEXT:
        for profile in profiles:
            profile.pop("max_context_chunks", None)  # the plan is the same whatever the prompts' length
    version = recipe.versions[recipe.runtime]

    def make(context: BuildContext) -> list[Path]:
        return [build_plan(context.folder / f"{component}.onnx", context.specs[component], recipe=recipe)]

    inputs = [PLAN_REVISION, component, recipe.runtime, version, recipe.architecture, profiles]
    return BuildStage("plan", inputs, make=make)
