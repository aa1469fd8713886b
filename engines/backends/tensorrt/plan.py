"""ONNX to TensorRT plans. Networks are strongly typed: the precision is the ONNX file's."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engines.backends.recipe import Recipe
from engines.backends.tensorrt.package import LEAN, builder_of, tensorrt_module
from engines.errors import BuildFailed
from engines.spec import ComponentSpec, Profile, TensorSpec

LATEST = 16  # errors that a message names at most


def build_plan(onnx: Path, spec: ComponentSpec, *, recipe: Recipe) -> Path:
    """Build `<component>.plan` beside the ONNX file; returns its path.

    Raises:
        BuildFailed: the parser or the builder failed, or the network has other tensors than the spec's.
    """
    trt = tensorrt_module(builder_of(recipe.runtime))
    log = PlanLog(trt)
    builder = trt.Builder(log.logger)
    network = parsed_network(trt, builder, onnx, log)
    check_network(trt, network, spec, recipe.precision)
    config = builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)  # fp32 means fp32; it is on by default
    if recipe.runtime == LEAN:
        # The lean runtime of the same version is installed where plans run: a copy of it in each would be code.
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)
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
    """The profiles that a plan is built with: the set's, or, for tensorrt_rtx, one that covers them all.

    TensorRT for RTX compiles kernels for each shape that it meets, so more profiles tune nothing there; and switching
    between profiles crashed with a segmentation fault (1.4.0.76, H100).
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
            max_context_chunks=max(profile.max_context_chunks for profile in profiles),
        ),
    )


class PlanLog:
    """TensorRT's latest errors, collected for the exception's message instead of printed."""

    def __init__(self, trt: Any) -> None:
        errors: deque[str] = deque(maxlen=LATEST)
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
        """The errors since `clear`, on one line."""
        return "; ".join(self._errors) or "it gave no reason"

    def clear(self) -> None:
        """Forget the errors. Call it before each operation: an error of an earlier one would be taken for its own."""
        self._errors.clear()


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
        actual = [(tensor.name, tensor.dtype) for tensor in tensors]
        wanted = [(t.name, trt.DataType.INT64 if t.dtype == "int64" else floating) for t in expected]
        if actual != wanted:
            raise BuildFailed(f"{spec.name} has the {kind} {actual} in TensorRT, the spec says {wanted}")
        for tensor, table in zip(tensors, expected, strict=True):
            _check_shape(spec.name, tensor, table, exact=kind == "inputs")


def _check_shape(component: str, tensor: Any, table: TensorSpec, *, exact: bool) -> None:
    """An output axis may be -1 where the spec has a number: TensorRT does not follow every shape computation."""
    shape: Sequence[int] = tuple(tensor.shape)
    wanted = [-1 if isinstance(dimension, str) else dimension for dimension in table.shape]
    same = len(shape) == len(wanted) and all(
        have == want or (have == -1 and not exact) for have, want in zip(shape, wanted, strict=True)
    )
    if not same:
        raise BuildFailed(f"{component}: {table.name} has the shape {shape} in TensorRT, the spec says {table.shape}")


def optimization_profile(builder: Any, spec: ComponentSpec, profile: Profile) -> Any:
    """The range of every input's shape, in rows and latent cells."""
    ranges = builder.create_optimization_profile()
    for tensor in spec.inputs:
        ranges.set_shape(tensor.name, *profile.bounds(tensor))
    return ranges
