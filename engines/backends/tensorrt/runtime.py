"""A tensorrt set's components: TensorRT's contexts on torch's memory and streams, with one CUDA graph a shape.

It has run with tensorrt-rtx 1.4.0.76 on an H100 and an H200, which that version does not list (docs/engines.md). On
another GPU run tests/gpu/test_tensorrt_runtime.py first. The kernel files of RENDER_CACHE_DIR have not run.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from engines import runtime_cache
from engines.backends.protocol import Engine, Runtime
from engines.backends.tensorrt.jit_cache import KernelFile
from engines.backends.tensorrt.package import cuda_runtime, tensorrt_module
from engines.backends.tensorrt.plan import PlanLog, planned
from engines.cuda_graph import no_garbage_collection
from engines.device import Placement, cuda_value, dtype_of
from engines.errors import EngineSetRefused
from engines.manifest import Manifest
from engines.spec import ComponentSpec, Profile, TensorSpec

log = logging.getLogger("engines")

Shapes = tuple[tuple[int, ...], ...]


@dataclass
class _Buffers:
    """The tensors that TensorRT reads and writes at one shape: their addresses stay, since graphs hold them."""

    profile: int
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    graph: CapturedCall | None = None


class Context(NamedTuple):
    """An execution context (IExecutionContext), and what it needs for as long as it lives.

    `kernels` is where TensorRT for RTX keeps what it compiles. A tuple lets go of its last member first: TensorRT wants
    the cache to outlive the context.
    """

    kernels: KernelFile | None
    log: PlanLog
    execution: Any


class TensorRTEngine:
    """One execution context as an Engine, on torch's current stream.

    By itself it captures one CUDA graph a shape and replays it. Inside another capture (a worker's step) it adds its
    kernels to that graph; the plain calls that come before every capture have prepared the shape.
    """

    def __init__(self, context: Context, spec: ComponentSpec, manifest: Manifest, device: torch.device) -> None:
        self._context, self._opened = context.execution, context
        self._spec = spec
        self._profiles = planned(manifest.runtime, manifest.profiles)
        self._dtype = dtype_of(manifest.precision)
        self._device = device
        self._log = context.log
        self._known: dict[Shapes, _Buffers] = {}
        self._bound: _Buffers | None = None

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs are fresh tensors: the buffers are overwritten by the next call.

        Raises:
            ValueError: no profile of the plan covers these shapes.
            RuntimeError: TensorRT or CUDA failed; the text says how.
        """
        self._log.clear()
        shapes = tuple(tuple(inputs[tensor.name].shape) for tensor in self._spec.inputs)
        capturing = torch.cuda.is_current_stream_capturing()
        buffers = self._known.get(shapes)
        new = buffers is None
        if buffers is None:
            buffers = self._known[shapes] = self._prepared(shapes)
        for name, buffer in buffers.inputs.items():
            buffer.copy_(inputs[name], non_blocking=True)
        stream = torch.cuda.current_stream(self._device)
        if capturing:
            self._enqueue(buffers, stream.cuda_stream)
        else:
            self._replay(buffers, stream)
            if new and self._opened.kernels is not None:
                self._opened.kernels.save()  # a worker may be killed at any time
        return {name: buffer.clone() for name, buffer in buffers.outputs.items()}

    def forget_shapes(self) -> None:
        """Free the buffers and graphs of all shapes; the next call at each shape prepares it again."""
        self._known.clear()
        self._bound = None

    def _prepared(self, shapes: Shapes) -> _Buffers:
        sizes: dict[str, int] = {}
        for tensor, shape in zip(self._spec.inputs, shapes, strict=True):
            sizes |= tensor.sizes_of(shape)
        return _Buffers(
            profile=profile_for(self._spec, self._profiles, shapes),
            inputs={tensor.name: self._empty(tensor, sizes) for tensor in self._spec.inputs},
            outputs={tensor.name: self._empty(tensor, sizes) for tensor in self._spec.outputs},
        )

    def _empty(self, tensor: TensorSpec, sizes: Mapping[str, int]) -> Tensor:
        dtype = torch.int64 if tensor.dtype == "int64" else self._dtype
        return torch.empty(tensor.with_sizes(sizes), dtype=dtype, device=self._device)

    def _replay(self, buffers: _Buffers, stream: torch.cuda.Stream) -> None:
        if buffers.graph is None:
            self._enqueue(buffers, stream.cuda_stream)  # TensorRT's lazy set-up must not happen inside a capture
            stream.synchronize()
            # The default stream cannot be captured. The side stream runs nothing: the caller's stream runs the graph.
            side = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
            buffers.graph = CapturedCall(lambda: self._enqueue(buffers, side.cuda_stream), side.cuda_stream)
        buffers.graph.launch(stream.cuda_stream)

    def _enqueue(self, buffers: _Buffers, stream: int) -> None:
        if self._bound is not buffers:
            self._bind(buffers, stream)
        if not self._context.execute_async_v3(stream):
            if not torch.cuda.is_current_stream_capturing():
                torch.cuda.synchronize(self._device)  # a broken CUDA context says so here, in torch's words
            raise RuntimeError(f"TensorRT could not run {self._spec.name}: {self._log.text}")

    def _bind(self, buffers: _Buffers, stream: int) -> None:
        self._bound = None  # until everything is set: a failure half-way must lead to another bind
        context, wanted = self._context, buffers.profile
        if context.active_optimization_profile != wanted and not context.set_optimization_profile_async(wanted, stream):
            raise RuntimeError(f"{self._spec.name} does not take profile {wanted}: {self._log.text}")
        for name, buffer in buffers.inputs.items():
            if not context.set_input_shape(name, tuple(buffer.shape)):
                raise RuntimeError(f"{self._spec.name} does not take {name} {tuple(buffer.shape)}: {self._log.text}")
        for name, buffer in (buffers.inputs | buffers.outputs).items():
            if not context.set_tensor_address(name, buffer.data_ptr()):
                raise RuntimeError(f"{self._spec.name} does not take the address of {name}: {self._log.text}")
        self._bound = buffers


def profile_for(spec: ComponentSpec, profiles: tuple[Profile, ...], shapes: Shapes) -> int:
    """The number of the profile that covers the inputs' shapes, and of several the one tuned for the smallest shapes.

    Of two that are tuned for the same shapes, it is the narrower one. So a size with a `--shape` of its own runs with
    that profile, whether a range that covers it was named before or after it.

    Raises:
        ValueError: none does.
    """
    # By profile: the values of all inputs that it is tuned for, and the fewest that it takes, negated.
    values: dict[int, tuple[int, int]] = {}
    for index, profile in enumerate(profiles):
        bounds = [profile.bounds(tensor) for tensor in spec.inputs]
        if all(_within(shape, low, high) for shape, (low, _, high) in zip(shapes, bounds, strict=True)):
            values[index] = sum(math.prod(opt) for _, opt, _ in bounds), -sum(math.prod(low) for low, _, _ in bounds)
    if values:
        return min(values, key=values.__getitem__)
    named = ", ".join(f"{tensor.name} {shape}" for tensor, shape in zip(spec.inputs, shapes, strict=True))
    raise ValueError(f"no profile of {spec.name} covers {named}")


def _within(shape: tuple[int, ...], low: tuple[int, ...], high: tuple[int, ...]) -> bool:
    return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))


class CapturedCall:
    """The work that one call enqueues on a stream, as a CUDA graph."""

    def __init__(self, call: Callable[[], None], stream: int) -> None:
        self._runtime = runtime = cuda_runtime()
        # Other threads may use the device meanwhile: only this thread's calls are captured.
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        with no_garbage_collection():
            self._value(runtime.cudaStreamBeginCapture(stream, mode))
            try:
                call()
            finally:
                graph = self._value(runtime.cudaStreamEndCapture(stream))
        self._executable = self._value(runtime.cudaGraphInstantiate(graph, 0))
        self._value(runtime.cudaGraphDestroy(graph))

    def launch(self, stream: int) -> None:
        """Launch on a stream; returns at once."""
        self._value(self._runtime.cudaGraphLaunch(self._executable, stream))

    def _value(self, result: tuple[Any, ...]) -> Any:
        return cuda_value(result, lambda error: self._runtime.cudaGetErrorString(error)[1].decode())

    def __del__(self) -> None:
        executable = getattr(self, "_executable", None)
        if executable is not None:
            self._runtime.cudaGraphExecDestroy(executable)


class TensorRTRuntime(Runtime):
    """Opens one plan a component."""

    def __init__(self, folder: Path, manifest: Manifest, placement: Placement) -> None:
        self._folder, self._manifest, self._device = folder, manifest, placement.device
        self._cache = placement.cache
        self._trt = tensorrt_module(manifest.runtime)
        self._log = PlanLog(self._trt)
        self._runtime = self._trt.Runtime(self._log.logger)

    def open(self, name: str) -> Engine:
        """Deserialise one plan and compare its tensors with the spec.

        Raises:
            EngineSetRefused: TensorRT does not take the plan, or it has other tensors.
        """
        self._log.clear()
        component = self._manifest.components[name]
        path = self._folder / next(iter(component.files))
        plan = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if plan is None:
            raise EngineSetRefused(f"{self._manifest.runtime} does not load {path}: {self._log.text}")
        check_plan(self._trt, plan, path, component.spec, dtype_of(self._manifest.precision))
        context = self._context(plan, name)
        if context.execution is None:
            raise torch.OutOfMemoryError(f"out of memory, or no context for {name}: {self._log.text}")
        return TensorRTEngine(context, component.spec, self._manifest, self._device)

    def forget_shapes(self, engine: Engine) -> None:
        """Free its buffers, about 0.4 GB for a batch of eight at 512x512, which its graphs read and write."""
        assert isinstance(engine, TensorRTEngine), engine
        engine.forget_shapes()

    def _context(self, plan: Any, name: str) -> Context:
        """TensorRT for RTX compiles a shape's own kernels when it first meets the shape. By default it does so in the
        background and runs general ones meanwhile: a graph captured then would keep those.
        """
        strategies = getattr(self._trt, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:  # `tensorrt` compiles nothing at run time
            return Context(None, self._log, plan.create_execution_context())
        config = plan.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        kernels = self._kernels(config, name)
        return Context(kernels, self._log, plan.create_execution_context(config))

    def _kernels(self, config: Any, name: str) -> KernelFile | None:
        """The kernels that earlier processes compiled, attached to `config`; None where they are not kept."""
        if self._cache is None:
            return None
        card, versions = f"{torch.cuda.get_device_name(self._device)} {self._manifest.architecture}", self._versions()
        folder = runtime_cache.folder(self._cache, self._manifest.digest, card=card, versions=versions)
        key = {"set": self._manifest.digest, "component": name, "card": card, **versions}
        with torch.cuda.device(self._device):  # TensorRT compares a file with the current context's GPU
            kernels = KernelFile(folder / f"{name}.kernels", key, config.create_runtime_cache)
        if not config.set_runtime_cache(kernels.cache):
            log.warning("%s takes no runtime cache for %s: %s", self._manifest.runtime, name, self._log.text)
            return None
        return kernels

    def _versions(self) -> dict[str, str]:
        """What compiled kernels depend on besides the set and the card: an older driver does not take a newer one's."""
        cuda = cuda_runtime()
        driver = cuda_value(cuda.cudaDriverGetVersion(), lambda error: cuda.cudaGetErrorString(error)[1].decode())
        package = self._manifest.runtime
        return {package: self._manifest.versions[package], "driver": str(driver)}


def check_plan(trt: Any, plan: Any, path: Path, spec: ComponentSpec, dtype: torch.dtype) -> None:
    """Compare names, dtypes and directions of a loaded plan (ICudaEngine) with the spec.

    Raises:
        EngineSetRefused: saying both.
    """
    floating = trt.DataType.HALF if dtype == torch.float16 else trt.DataType.FLOAT
    expected = {
        (tensor.name, mode, trt.DataType.INT64 if tensor.dtype == "int64" else floating)
        for mode, tensors in ((trt.TensorIOMode.INPUT, spec.inputs), (trt.TensorIOMode.OUTPUT, spec.outputs))
        for tensor in tensors
    }
    names = [plan.get_tensor_name(i) for i in range(plan.num_io_tensors)]
    actual = {(name, plan.get_tensor_mode(name), plan.get_tensor_dtype(name)) for name in names}
    if actual != expected:
        have, want = sorted(map(str, actual)), sorted(map(str, expected))
        raise EngineSetRefused(f"{path} has the tensors {have}, the spec {want}")


def open_set(folder: Path, manifest: Manifest, placement: Placement) -> TensorRTRuntime:
    """The runtime of a set in `folder`."""
    return TensorRTRuntime(folder, manifest, placement)
