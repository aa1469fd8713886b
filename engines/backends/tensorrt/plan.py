"""ONNX to TensorRT plans, through `tensorrt` or, where that is not installed, `tensorrt_rtx` (the same API).

Networks are strongly typed: the precision is the ONNX file's. `tensorrt_rtx` builds for a named compute capability
without a GPU; `tensorrt` builds for the GPU that is here.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.errors import BackendUnavailable, BuildFailed
from engines.manifest import installed_version
from engines.spec import ComponentSpec, Profile, TensorSpec

if TYPE_CHECKING:
    from engines.build.recipe import Recipe

PACKAGES = ("tensorrt", "tensorrt_rtx")


def package_name() -> str:
    """The package that is installed.

    Raises:
        BackendUnavailable: neither is.
    """
    for package in PACKAGES:
        if installed_version(package) is not None:
            return package
    raise BackendUnavailable("neither tensorrt nor tensorrt-rtx is installed; docs/engines.md says how")


def tensorrt_module(package: str) -> Any:
    """The imported package; callers know its API.

    Raises:
        BackendUnavailable: it is installed, but its libraries do not load.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"{package} is installed but does not load: {error}") from error


def why_not_run() -> str | None:
    """Why TensorRT plans cannot run on this machine's GPU, as half a sentence; None if they can."""
    try:
        package = package_name()
        tensorrt_module(package)
    except BackendUnavailable as error:
        return str(error)
    if not _listed(package) and not _runs_what_it_does_not_list(package):
        return f"tensorrt_rtx does not support its compute capability, {_current_architecture()}"
    return None


def is_best() -> bool:
    """Whether TensorRT runs on this machine's GPU with kernels made for it: what it does not list, it runs slowly."""
    return why_not_run() is None and _listed(package_name())


def _listed(package: str, architecture: str | None = None) -> bool:
    """Whether the package has kernels made for an architecture; without one, for this machine's GPU."""
    return package == "tensorrt" or (architecture or _current_architecture()) in _known(package)


def _known(package: str) -> list[str]:
    """The compute capabilities that tensorrt_rtx lists, as 'sm89'."""
    return [name.lower() for name in tensorrt_module(package).ComputeCapability.__members__ if name[:2] == "SM"]


def architecture(capability: str | None) -> str:
    """The compute capability to build for, as 'sm89'.

    Raises:
        BackendUnavailable: there is no GPU and none was named, or the package does not build for this one.
    """
    package = package_name()
    if capability is None:
        capability = _current_architecture()
    elif not re.fullmatch(r"sm\d{2,3}", capability):
        raise BackendUnavailable(f"{capability!r} is not a compute capability; write it as sm89")
    if package == "tensorrt_rtx":
        known = _known(package)
        unlisted = capability == _here() and _runs_what_it_does_not_list(package)
        if capability not in known and not unlisted:
            raise BackendUnavailable(f"tensorrt_rtx does not build for {capability}; it knows {', '.join(known)}")
    elif capability != _current_architecture():
        raise BackendUnavailable(f"tensorrt builds for the GPU that is here, {_current_architecture()}, only")
    return capability


def check_precision(architecture: str, precision: str) -> None:
    """Refuse float32 where the package would multiply with fewer bits whatever `config.clear_flag(TF32)` says.

    Convolutions, matrix products and attention by tensorrt_rtx 1.4.0.76 on sm90 err by 3e-4 to 4e-4 of their norm, the
    same with and without the flag: TF32's ten bits. docs/benchmarks.md has the table.

    Raises:
        BackendUnavailable: the package does not list this architecture, and float32 was asked for.
    """
    if precision == "fp32" and not _listed(package_name(), architecture):
        raise BackendUnavailable(
            f"tensorrt_rtx does not list {architecture}, and there it multiplies float32 with the ten bits of TF32; "
            "use --precision fp16, or another backend"
        )


def _runs_what_it_does_not_list(package: str) -> bool:
    """tensorrt_rtx 1.4.0.76 was seen to run on an H200, sm90, which it does not list; 1.7.1 refuses to."""
    major, minor = (int(part) for part in str(installed_version(package)).split(".")[:2])
    return (major, minor) < (1, 5)


def _here() -> str | None:
    """This machine's compute capability, None without a GPU."""
    try:
        return _current_architecture()
    except BackendUnavailable:
        return None


def _current_architecture() -> str:
    import torch

    if not torch.cuda.is_available():
        raise BackendUnavailable("there is no NVIDIA GPU here; name the one to build for: --compute-capability sm89")
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def build_plan(onnx: Path, spec: ComponentSpec, *, recipe: Recipe) -> Path:
    """Build `<component>.plan` beside the ONNX file.

    Raises:
        BuildFailed: the parser or the builder gave up, or the network has other tensors than the spec's.
    """
    trt = tensorrt_module(recipe.runtime)
    log = PlanLog(trt)
    builder = trt.Builder(log.logger)
    network = parsed_network(trt, builder, onnx, log)
    check_network(trt, network, spec, recipe.precision)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32; it is on by default
    if recipe.runtime == "tensorrt_rtx":
        config.num_compute_capabilities = 1
        named = getattr(trt.ComputeCapability, str(recipe.architecture).upper(), trt.ComputeCapability.CURRENT)
        if not config.set_compute_capability(named, 0):
            raise BuildFailed(f"{recipe.runtime} does not build for {recipe.architecture}: {log.text}")
    for profile in planned(recipe.runtime, recipe.profiles):
        if config.add_optimization_profile(optimization_profile(builder, spec, profile)) < 0:
            raise BuildFailed(f"{recipe.runtime} does not take {spec.name}'s profile {profile.text}: {log.text}")
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise BuildFailed(f"{recipe.runtime} could not build {spec.name}: {log.text}")
    path = onnx.with_suffix(".plan")
    path.write_bytes(memoryview(plan))
    return path


def planned(runtime: str, profiles: Sequence[Profile]) -> tuple[Profile, ...]:
    """The profiles that a plan is built with: those of the set, or, for tensorrt_rtx, one that holds them all.

    TensorRT for RTX compiles kernels for each shape that it meets, so more profiles tune nothing there; and changing
    from one to another ended in a segmentation fault (1.4.0.76, H100).
    """
    if runtime != "tensorrt_rtx" or len(profiles) == 1:
        return tuple(profiles)
    largest = max(profiles, key=lambda profile: profile.opt_batch * profile.max_height * profile.max_width)
    return (
        Profile(
            min_batch=min(profile.min_batch for profile in profiles),
            opt_batch=largest.opt_batch,
            max_batch=max(profile.max_batch for profile in profiles),
            min_height=min(profile.min_height for profile in profiles),
            max_height=max(profile.max_height for profile in profiles),
            min_width=min(profile.min_width for profile in profiles),
            max_width=max(profile.max_width for profile in profiles),
        ),
    )


class PlanLog:
    """TensorRT's errors, kept for the exception's message instead of printed."""

    def __init__(self, trt: Any) -> None:
        errors: list[str] = []
        serious = (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR)

        class Kept(trt.ILogger):  # type: ignore[misc]
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity in serious:
                    errors.append(message)

        self.logger = Kept()
        self._errors = errors

    @property
    def text(self) -> str:
        """All errors so far, in one line."""
        return "; ".join(self._errors) or "it gave no reason"


def parsed_network(trt: Any, builder: Any, onnx: Path, log: PlanLog) -> Any:
    """The ONNX graph as a strongly typed TensorRT network.

    Raises:
        BuildFailed: the parser refused it.
    """
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)  # newer versions know no other kind
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, log.logger)
    if not parser.parse_from_file(str(onnx)):
        reasons = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise BuildFailed(f"TensorRT's parser refused {onnx.name}: {'; '.join(reasons) or log.text}")
    return network


def check_network(trt: Any, network: Any, spec: ComponentSpec, precision: str) -> None:
    """Compare the network's inputs and outputs with the spec: order, names, dtypes, and shapes with -1 for dynamic.

    Raises:
        BuildFailed: naming what differs.
    """
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    floating = trt.DataType.HALF if precision == "fp16" else trt.DataType.FLOAT
    for kind, tensors, expected in (("inputs", inputs, spec.inputs), ("outputs", outputs, spec.outputs)):
        found = [(tensor.name, tensor.dtype) for tensor in tensors]
        wanted = [(t.name, trt.DataType.INT64 if t.dtype == "int64" else floating) for t in expected]
        if found != wanted:
            raise BuildFailed(f"{spec.name} has the {kind} {found} in TensorRT, the spec says {wanted}")
        for tensor, table in zip(tensors, expected, strict=True):
            _check_shape(spec.name, tensor, table, exact=kind == "inputs")


def _check_shape(component: str, tensor: Any, table: TensorSpec, *, exact: bool) -> None:
    """An output axis may be -1 where the spec has a number: TensorRT does not follow every shape computation."""
    found: Sequence[int] = tuple(tensor.shape)
    wanted = [-1 if isinstance(dimension, str) else dimension for dimension in table.shape]
    same = len(found) == len(wanted) and all(
        have == want or (have == -1 and not exact) for have, want in zip(found, wanted, strict=True)
    )
    if not same:
        raise BuildFailed(f"{component}: {table.name} has the shape {found} in TensorRT, the spec says {table.shape}")


def optimization_profile(builder: Any, spec: ComponentSpec, profile: Profile) -> Any:
    """The range of every input's shape, in rows and latent cells."""
    made = builder.create_optimization_profile()
    for tensor in spec.inputs:
        made.set_shape(tensor.name, *profile.bounds(tensor))
    return made
