"""triton, as the registry knows it: our own networks for one NVIDIA GPU, with their compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.backends.protocol import Backend, Runtime
from engines.backends.recipe import BuildContext, BuildStage, CompileJob, Recipe
from engines.backends.stages import NETWORK_PACKAGES, constants_stage, made_by, versions_of
from engines.device import Placement, architecture_of, build_device, dtype_of
from engines.errors import BackendUnavailable
from engines.files import file_sha256
from engines.manifest import Manifest, Precision, json_key
from engines.spec import Profile

# Raise it when kernels differ although their inputs are the same.
KERNELS_REVISION = 1


class TritonBackend(Backend):
    """Sets hold each component's weights, and its kernels as Triton compiled them for one GPU."""

    name = "triton"
    precision_help = "fp16"
    compiles = True

    def preference(self, *, gpu: bool) -> int:
        """The choice on a GPU that TensorRT has no kernels for."""
        return 2 if gpu else 0

    def usual_precision(self) -> Precision:
        """The only one."""
        return "fp16"

    def recipe(self, *, precision: Precision, profiles: Sequence[Profile], capability: str | None) -> Recipe:
        """For the GPU that is here, in float16 only."""
        assert capability is None, capability
        device = build_device()
        if device.type != "cuda":
            raise BackendUnavailable(
                "triton sets are built on the machine, or the kind of machine, that runs them: a GPU"
            )
        if precision != "fp16":
            raise BackendUnavailable("triton sets hold float16 kernels; use --precision fp16, or another backend")
        versions = versions_of([*NETWORK_PACKAGES, self.name])
        return Recipe(self.name, self.name, precision, tuple(profiles), architecture_of(device), versions)

    def stages(self, recipe: Recipe, component: str) -> tuple[BuildStage, ...]:
        """The weights, and the kernels for every size."""
        return constants_stage(recipe, component), _kernels_stage(recipe, component)

    def kernel_keys(self, recipe: Recipe) -> dict[str, str]:
        """A digest of each kernel's source, which is part of its key in Triton's cache."""
        from engines.backends.triton.kernel_keys import current_keys

        return current_keys(recipe.architecture)

    def check(self, folder: Path, manifest: Manifest, placement: Placement) -> None:
        """A Hopper GPU needs cuda-python, and kernels of other code a C compiler."""
        if placement.device.type == "cuda":
            from engines.backends.triton import hopper
            from engines.backends.triton.kernel_keys import check_compiler

            hopper.check_installed(placement.device)
            check_compiler(folder, manifest)

    def open(self, folder: Path, manifest: Manifest, placement: Placement) -> Runtime:
        """Kernels that the set lacks are compiled at first use, if there is a C compiler."""
        from engines.backends.triton.runtime import open_set

        return open_set(folder, manifest, placement)


def _kernels_stage(recipe: Recipe, component: str) -> BuildStage:
    def job(context: BuildContext) -> CompileJob:
        from engines.backends.triton.kernel_job import KernelJob

        path = context.folder / "kernels" / f"{component}.zip"
        dtype = dtype_of(recipe.precision)
        return KernelJob(component, context.specs[component], context.weights, dtype, recipe.profiles, path)

    profiles = [profile.model_dump() for profile in recipe.profiles]
    versions = made_by(recipe) | {recipe.runtime: recipe.versions[recipe.runtime]}
    inputs = [KERNELS_REVISION, component, sources_digest(), recipe.architecture, profiles, versions]
    return BuildStage("kernels", inputs, job=job)


def sources_digest() -> str:
    """Digest of this folder's code: a change to it makes other kernels."""
    files = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".cu"))
    return json_key([[path.name, file_sha256(path)] for path in files])
