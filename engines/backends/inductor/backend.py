"""inductor, as the registry knows it: packages that torch.compile made ahead of time, one per size."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.backends.inductor.sizes import Size, batch_sizes, single_sizes, sizes_of
from engines.backends.protocol import Backend, Runtime
from engines.backends.recipe import BuildContext, BuildStage, CompileJob, Recipe
from engines.backends.stages import NETWORK_PACKAGES, constants_stage, made_by, versions_of
from engines.device import Placement, architecture_of, build_device, dtype_of, has_gpu
from engines.manifest import Manifest, Precision
from engines.spec import Profile

# Raise it when packages differ although their inputs are the same.
PACKAGE_REVISION = 2


class InductorBackend(Backend):
    """Sets hold each component's weights once, and a package for each of its shapes and batch sizes."""

    name = "inductor"
    precision_help = "fp16 on a GPU, fp32 on a CPU"
    takes_ranges = False
    compiles = True

    def usual_precision(self) -> Precision:
        """float16 on a GPU."""
        return "fp16" if has_gpu() else "fp32"

    def recipe(self, *, precision: Precision, profiles: Sequence[Profile], capability: str | None) -> Recipe:
        """For this machine's GPU, or for its CPU if it has no GPU. A range becomes the sizes in it."""
        assert capability is None, capability
        singles = single_sizes(profiles)
        architecture = architecture_of(build_device())
        return Recipe(self.name, "torch", precision, singles, architecture, versions_of(NETWORK_PACKAGES))

    def stages(self, recipe: Recipe, component: str) -> tuple[BuildStage, ...]:
        """The weights, then every package."""
        packages = (_package_stage(recipe, component, size) for size in sizes_of(component, recipe.profiles))
        return constants_stage(recipe, component), *packages

    def batch_sizes(self, max_batch: int) -> tuple[int, ...]:
        """Powers of two, and the largest batch."""
        return batch_sizes(max_batch)

    def open(self, folder: Path, manifest: Manifest, placement: Placement) -> Runtime:
        """`placement.threads` sets torch's threads for the whole process."""
        from engines.backends.inductor.runtime import open_set

        return open_set(folder, manifest, placement)


def _package_stage(recipe: Recipe, component: str, size: Size) -> BuildStage:
    def job(context: BuildContext) -> CompileJob:
        from engines.backends.inductor.packages import SUFFIX, PackageJob

        path = context.folder / "packages" / f"{component}-{size.stage}{SUFFIX}"
        dtype, device = dtype_of(recipe.precision), build_device().type
        return PackageJob(component, size, context.specs[component], context.weights, dtype, device, path)

    inputs = [PACKAGE_REVISION, component, size.stage, recipe.precision, recipe.architecture, made_by(recipe)]
    return BuildStage(size.stage, inputs, job=job)
