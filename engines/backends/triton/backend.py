"""triton, as the registry knows it: our own networks for one NVIDIA GPU, with their compiled kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engines.backends.protocol import Backend, Runtime
from engines.backends.recipe import BuildContext, BuildStage, CompileJob, Recipe
from engines.backends.stages import (
    CONSTANTS,
    CONSTANTS_REVISION,
    NETWORK_PACKAGES,
    constants_stage,
    made_by,
    versions_of,
)
from engines.backends.triton.precisions import (
    CALIBRATED_WITH,
    QUANTIZED_COMPONENTS,
    QUANTIZED_FROM,
    calibration_size,
)
from engines.device import Placement, architecture_of, build_device
from engines.errors import BackendUnavailable
from engines.files import file_sha256
from engines.manifest import Manifest, Precision, json_key
from engines.spec import Profile

# Of a picture: the decoder's widest tensors at full size have 256 channels, and kernels use 32-bit offsets.
MOST_PIXELS = 2**31 // 256
# Raise it when kernels differ although their inputs are the same.
KERNELS_REVISION = 1
# Raise it when quantized constants differ although their inputs are the same.
QUANTIZED_REVISION = 1


class TritonBackend(Backend):
    """Sets hold each component's weights, and its kernels as Triton compiled them for one GPU."""

    name = "triton"
    precision_help = "fp16"
    takes_calibration = True
    compiles = True

    def preference(self, *, gpu: bool) -> int:
        """The choice on a GPU that TensorRT has no kernels for."""
        return 2 if gpu else 0

    def usual_precision(self) -> Precision:
        """fp16, the only precision."""
        return "fp16"

    def recipe(self, *, precision: Precision, profiles: Sequence[Profile], capability: str | None) -> Recipe:
        """For the GPU that is here, in float16, or with quantized layers where the GPU computes in e4m3."""
        assert capability is None, capability
        device = build_device()
        if device.type != "cuda":
            raise BackendUnavailable(
                "triton sets are built on the machine, or the kind of machine, that runs them: a GPU"
            )
        architecture = architecture_of(device)
        if precision == "fp32":
            raise BackendUnavailable("triton sets hold float16 or fp8; use --precision fp16 or fp8, or another backend")
        if precision == "fp8" and _capability(architecture) < QUANTIZED_FROM:
            raise BackendUnavailable(
                f"this GPU ({architecture}) does not compute in fp8, which begins with sm89; use --precision fp16"
            )
        largest = max(profiles, key=lambda profile: profile.max_height * profile.max_width)
        if largest.max_height * largest.max_width > MOST_PIXELS:
            raise BackendUnavailable(
                f"triton's kernels use 32-bit offsets, which reach {MOST_PIXELS:,} pixels, such as 2048x4096; "
                f"{largest.text} has larger pictures. Use a smaller --shape, or another backend"
            )
        versions = versions_of([*NETWORK_PACKAGES, self.name])
        return Recipe(self.name, self.name, precision, tuple(profiles), architecture, versions)

    def stages(self, recipe: Recipe, component: str) -> tuple[BuildStage, ...]:
        """The weights, quantized where the precision says so, and the kernels for every size."""
        if recipe.precision == "fp8" and component in QUANTIZED_COMPONENTS:
            return _quantized_stage(recipe, component), _kernels_stage(recipe, component)
        plain = replace(recipe, precision="fp16")  # these constants are those of a float16 set
        return constants_stage(plain, component), _kernels_stage(recipe, component)

    def input_scales(self, folder: Path, manifest: Manifest) -> dict[str, dict[str, float]]:
        """The scales in the files of a quantized set; empty for another set."""
        if manifest.precision != "fp8":
            return {}
        from engines.backends.triton.stored_scales import scales_in

        return {
            component: scales_in(folder / next(iter(manifest.components[component].stages[CONSTANTS].files)))
            for component in QUANTIZED_COMPONENTS
        }

    def kernel_keys(self, recipe: Recipe) -> dict[str, str]:
        """A digest of each kernel's source, which is part of its key in Triton's cache."""
        from engines.backends.triton.kernel_keys import current_keys, used_keys

        return used_keys(current_keys(recipe.architecture), recipe.precision)

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


def _quantized_stage(recipe: Recipe, component: str) -> BuildStage:
    """The constants with quantized layers. Their scales come from pictures, which take all components to draw."""

    def make(context: BuildContext) -> list[Path]:
        from engines.backends.triton.quantized_build import save_quantized

        return [save_quantized(context, recipe, component)]

    size = calibration_size(recipe.profiles)
    inputs = [QUANTIZED_REVISION, CONSTANTS_REVISION, component, recipe.calibration, size, made_by(recipe)]
    return BuildStage(CONSTANTS, inputs, make=make, others=CALIBRATED_WITH)


def _capability(architecture: str) -> int:
    """'sm89' -> 89."""
    return int(architecture.removeprefix("sm"))


def _kernels_stage(recipe: Recipe, component: str) -> BuildStage:
    def job(context: BuildContext) -> CompileJob:
        from engines.backends.triton.kernel_job import KernelJob

        path = context.folder / "kernels" / f"{component}.zip"
        spec = context.specs[component]
        return KernelJob(component, spec, context.weights, recipe.precision, recipe.profiles, path)

    profiles = [profile.model_dump() for profile in recipe.profiles]
    versions = made_by(recipe) | {recipe.runtime: recipe.versions[recipe.runtime]}
    # Only the kernels of quantized layers differ with the precision.
    quantized = ["fp8"] if recipe.precision == "fp8" and component in QUANTIZED_COMPONENTS else []
    inputs: list[object] = [
        *quantized,
        KERNELS_REVISION,
        component,
        sources_digest(),
        recipe.architecture,
        profiles,
        versions,
    ]
    return BuildStage("kernels", inputs, job=job)


def sources_digest() -> str:
    """Digest of this folder's code: a change to it makes other kernels."""
    files = sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in (".py", ".cu"))
    return json_key([[path.name, file_sha256(path)] for path in files])
