"""The stages of each backend, what goes into them, and how they are made. Torch is imported only when one runs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import BackendUnavailable
from engines.manifest import EXPORT, TOKENIZER, BackendName, Precision, installed_version, json_key
from engines.model.locate import PART_OF, Weights, file_sha256
from engines.spec import ComponentSpec, Geometry, Profile, component_specs

if TYPE_CHECKING:
    from engines.build.compile import CompileJob
    from engines.model.networks import Networks, SpecialTokens

# Raise one when its stage makes other files from the same inputs.
REVISIONS = {"tokenizer": 1, "weights": 1, "constants": 2, EXPORT: 3, "plan": 2, "package": 2, "kernels": 1}
_EXPORTERS = ("torch", "diffusers", "transformers", "onnx")


@dataclass(frozen=True)
class Recipe:
    """How one backend's engines come about: stage names in order, versions, architecture, profiles."""

    backend: BackendName
    runtime: str  # the package that loads the set
    stages: tuple[str, ...]
    precision: Precision
    profiles: tuple[Profile, ...]
    architecture: str | None
    versions: dict[str, str]

    def stages_of(self, component: str) -> tuple[str, ...]:
        """Stage names in order."""
        return (*self.stages, *self.compiled_of(component))

    def compiled_of(self, component: str) -> tuple[str, ...]:
        """The stages that are compiled in parallel: triton has one, inductor one a size; the others have none."""
        if self.backend == "triton":
            return ("kernels",)
        if self.backend != "inductor":
            return ()
        from engines.backends.inductor.packages import sizes_of

        return tuple(size.stage for size in sizes_of(component, self.profiles))

    @property
    def fuses_attention(self) -> bool:
        """Whether the exported graph has an operator that only onnxruntime knows."""
        return self.backend == "onnxruntime"

    def inputs(self, component: str, stage: str) -> list[object]:
        """All that a stage's files depend on beside the files it reads."""
        if stage == "tokenizer":
            return [REVISIONS[stage], self.versions["transformers"]]
        made_by = {package: self.versions[package] for package in _EXPORTERS if package in self.versions}
        if stage == "weights":
            return [REVISIONS[stage], PART_OF[component], self.precision, made_by]
        if stage in (EXPORT, "constants"):
            fused = ["fused attention"] if self.fuses_attention else []
            return [REVISIONS[stage], component, self.precision, made_by, *fused]
        if self.backend == "inductor":
            made_by |= {self.runtime: self.versions[self.runtime]}
            return [REVISIONS["package"], component, stage, self.precision, self.architecture, made_by]
        from engines.backends.tensorrt.plan import planned

        profiles = [profile.model_dump() for profile in planned(self.runtime, self.profiles)]
        if stage == "kernels":
            made_by |= {self.runtime: self.versions[self.runtime]}
            return [REVISIONS[stage], component, sources_digest(), self.architecture, profiles, made_by]
        return [REVISIONS[stage], component, self.runtime, self.versions[self.runtime], self.architecture, profiles]


def recipe_for(
    backend: BackendName, *, precision: Precision, profiles: Sequence[Profile], capability: str | None
) -> Recipe:
    """The recipe on this machine.

    Raises:
        BackendUnavailable: a package is missing, the backend does not exist yet, or it cannot do what is asked.
    """
    if backend == "onnxruntime" and precision == "fp16":
        raise BackendUnavailable("onnxruntime sets run on the CPU, in fp32 only; use --precision fp32")
    if capability is not None and backend != "tensorrt":
        raise BackendUnavailable(
            f"--compute-capability is for tensorrt; {backend} sets are built on the machine, or the kind of machine, "
            "that runs them"
        )
    runtime: str = backend
    architecture: str | None = None
    stages: tuple[str, ...] = ("weights",) if backend == "torch" else (EXPORT,)
    if backend == "tensorrt":
        from engines.backends.tensorrt import plan

        runtime, architecture = plan.package_name(), plan.architecture(capability)
        plan.check_precision(architecture, precision)
        stages = (EXPORT, "plan")
    if backend == "triton":
        architecture, stages = _for_triton(precision), ("constants",)
    if backend == "inductor":
        from engines.backends.inductor.packages import check_profiles
        from engines.device import architecture_of, build_device

        check_profiles(profiles)
        runtime, architecture = "torch", architecture_of(build_device())
        stages = ("constants",)
    packages = [*_EXPORTERS, runtime] if EXPORT in stages else ["torch", "diffusers", "transformers"]
    if backend == "triton":
        packages.append(runtime)
    versions = {package: _version(package) for package in packages}
    return Recipe(backend, runtime, stages, precision, tuple(profiles), architecture, versions)


def _for_triton(precision: Precision) -> str:
    """The GPU's architecture. Raises BackendUnavailable where there is none, or for another precision."""
    from engines.device import architecture_of, build_device

    device = build_device()
    if device.type != "cuda":
        raise BackendUnavailable("triton sets are built on the machine, or the kind of machine, that runs them: a GPU")
    if precision != "fp16":
        raise BackendUnavailable("triton sets hold float16 kernels; use --precision fp16, or another backend")
    return architecture_of(device)


def _version(package: str) -> str:
    version = installed_version(package)
    if version is None:
        raise BackendUnavailable(f"building needs the package {package}, which is not installed")
    return version


def sources_digest() -> str:
    """Of the code whose kernels are kept: other code, other kernels."""
    files = sorted(
        path for path in (Path(__file__).parents[1] / "backends" / "triton").iterdir() if path.suffix in (".py", ".cu")
    )
    return json_key([[path.name, file_sha256(path)] for path in files])


class StageMaker:
    """Makes stages' files in `folder`, opening the networks once, and only if a stage needs them."""

    def __init__(self, weights: Weights, recipe: Recipe, folder: Path) -> None:
        self.geometry = Geometry()
        self._weights = weights
        self._recipe = recipe
        self._folder = folder
        self._networks: Networks | None = None
        self._modules: dict[str, Any] = {}

    def read_geometry(self) -> Geometry:
        """The model's sizes, from its networks."""
        from engines.model.networks import geometry_of

        return geometry_of(self._opened(), self._tokens())

    def make(self, component: str, stage: str) -> list[Path]:
        """Run one stage; the files it wrote."""
        if stage == "tokenizer":
            self._tokens()
            return [self._folder / TOKENIZER]
        return {"weights": self._copy, "constants": self._constants, EXPORT: self._export, "plan": self._plan}[stage](
            component
        )

    def compile_job(self, spec: ComponentSpec, stage: str) -> CompileJob:
        """What makes one of `compiled_of`'s stages."""
        from engines.engine_set import DTYPES

        dtype = DTYPES[self._recipe.precision]
        if stage == "kernels":
            from engines.backends.triton.kernel_cache import KernelJob

            path = self._folder / "kernels" / f"{spec.name}.zip"
            return KernelJob(spec.name, spec, self._weights, dtype, self._recipe.profiles, path)
        from engines.backends.inductor.packages import SUFFIX, PackageJob, Size
        from engines.device import build_device

        size = Size.of_stage(stage)
        assert size is not None, stage
        path = self._folder / "packages" / f"{spec.name}-{stage}{SUFFIX}"
        return PackageJob(spec.name, size, spec, self._weights, dtype, build_device().type, path)

    def compile(self, jobs: Sequence[CompileJob], processes: int | None) -> Iterator[tuple[CompileJob, float]]:
        """Do the jobs in parallel; each as it is finished, with its seconds."""
        if not jobs:
            return iter(())
        from engines.build.compile import compile_all, usual_processes

        return compile_all(jobs, usual_processes() if processes is None else processes)

    def _tokens(self) -> SpecialTokens:
        from engines.model.networks import save_tokenizer

        return save_tokenizer(self._weights.tokenizer_folder, self._folder / TOKENIZER)

    def _copy(self, component: str) -> list[Path]:
        part = PART_OF[component]
        folder = self._folder / "weights" / part
        getattr(self._opened(), part).save_pretrained(folder)
        return sorted(path for path in folder.iterdir() if path.is_file())

    def _constants(self, component: str) -> list[Path]:
        from engines.backends.triton.parameters import save_parameters

        return [save_parameters(self._module(component), self._folder / "constants" / f"{component}.safetensors")]

    def _module(self, component: str) -> Any:
        if not self._modules:
            self._modules = dict(self._opened().modules())
        return self._modules[component]

    def _export(self, component: str) -> list[Path]:
        from engines.backends.onnxruntime.attention import fuse_attention
        from engines.build.onnx_export import export_onnx
        from engines.engine_set import DTYPES

        spec, module = component_specs(self.geometry)[component], self._module(component)
        if self._recipe.fuses_attention:
            fuse_attention(module)
        return export_onnx(module, spec, dtype=DTYPES[self._recipe.precision], folder=self._folder)

    def _plan(self, component: str) -> list[Path]:
        from engines.backends.tensorrt.plan import build_plan

        spec = component_specs(self.geometry)[component]
        return [build_plan(self._folder / f"{component}.onnx", spec, recipe=self._recipe)]

    def _opened(self) -> Networks:
        if self._networks is None:
            from engines.engine_set import DTYPES
            from engines.model.networks import load_networks

            self._networks = load_networks(self._weights, dtype=DTYPES[self._recipe.precision])
        return self._networks
