"""The tensorrt backend: torch's memory and streams, TensorRT's contexts, and a CUDA graph a shape through cuda-python.

Not run yet on any GPU; written against the API that the plans are built with. Kept thin for that reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engines.errors import BackendUnavailable, EngineSetRefused
from engines.manifest import Manifest
from engines.plan import PlanLog, tensorrt_module
from engines.runtime import DTYPES, Engine, Placement
from engines.spec import ComponentSpec, TensorSpec

Shapes = tuple[tuple[int, ...], ...]


class TensorRTEngine:
    """One execution context as an Engine. The first call at a shape runs plainly, later ones replay a CUDA graph."""

    def __init__(self, engine: Any, spec: ComponentSpec, manifest: Manifest, device: torch.device) -> None:
        self._context = engine.create_execution_context()
        self._spec = spec
        self._profiles = manifest.profiles
        self._dtype = DTYPES[manifest.precision]
        self._device = device
        # Graphs cannot be captured on the default stream.
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: dict[Shapes, _Graph] = {}

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Outputs are fresh tensors: a graph's own buffers are overwritten by its next replay."""
        shapes = tuple(tuple(inputs[tensor.name].shape) for tensor in self._spec.inputs)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            graph = self._graphs.get(shapes)
            if graph is None:
                graph = self._graphs[shapes] = self._captured(inputs, shapes)
            for name, tensor in graph.inputs.items():
                tensor.copy_(inputs[name], non_blocking=True)
            graph.replay(self._stream.cuda_stream)
            outputs = {name: tensor.clone() for name, tensor in graph.outputs.items()}
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        return outputs

    def _captured(self, inputs: Mapping[str, Tensor], shapes: Shapes) -> _Graph:
        fed = {tensor.name: inputs[tensor.name].contiguous().clone() for tensor in self._spec.inputs}
        sizes: dict[str, int] = {}
        for tensor, shape in zip(self._spec.inputs, shapes, strict=True):
            sizes |= tensor.sizes_of(shape)
        given = {
            tensor.name: torch.empty(tensor.with_sizes(sizes), dtype=self._dtype, device=self._device)
            for tensor in self._spec.outputs
        }
        self._choose_profile(shapes)
        for name, buffer in fed.items():
            if not self._context.set_input_shape(name, tuple(buffer.shape)):
                raise ValueError(f"{self._spec.name} was not built for {name} of shape {tuple(buffer.shape)}")
        for name, buffer in (fed | given).items():
            self._context.set_tensor_address(name, buffer.data_ptr())
        self._execute()  # TensorRT's lazy set-up must not happen inside a capture
        self._stream.synchronize()
        return _Graph(fed, given, self._execute, self._stream.cuda_stream)

    def _choose_profile(self, shapes: Shapes) -> None:
        for index, profile in enumerate(self._profiles):
            if all(
                _within(shape, profile.bounds(tensor)) for tensor, shape in zip(self._spec.inputs, shapes, strict=True)
            ):
                self._context.set_optimization_profile_async(index, self._stream.cuda_stream)
                return
        raise ValueError(f"no profile of {self._spec.name} covers {_described(self._spec.inputs, shapes)}")

    def _execute(self) -> None:
        if not self._context.execute_async_v3(self._stream.cuda_stream):
            raise RuntimeError(f"TensorRT could not run {self._spec.name}")


class _Graph:
    """One captured execution and the buffers that it reads and writes."""

    def __init__(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor], execute: Any, stream: int) -> None:
        self.inputs, self.outputs = inputs, outputs
        runtime = _cuda_runtime()
        mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        _done(runtime.cudaStreamBeginCapture(stream, mode))
        execute()
        graph = _done(runtime.cudaStreamEndCapture(stream))
        self._executable = _done(runtime.cudaGraphInstantiate(graph, 0))
        _done(runtime.cudaGraphDestroy(graph))
        self._runtime = runtime

    def replay(self, stream: int) -> None:
        """Launch on a stream; returns at once."""
        _done(self._runtime.cudaGraphLaunch(self._executable, stream))

    def __del__(self) -> None:
        executable = getattr(self, "_executable", None)
        if executable is not None:
            self._runtime.cudaGraphExecDestroy(executable)


def _cuda_runtime() -> Any:
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendUnavailable("the tensorrt backend needs cuda-python for CUDA graphs; install it") from error
    return runtime


def _done(result: tuple[Any, ...]) -> Any:
    """cuda-python returns (error, value...): the value, or an error that names CUDA as the worker expects."""
    error, *values = result
    if int(error) != 0:
        raise RuntimeError(f"CUDA error: {error}")
    return values[0] if values else None


def _within(shape: tuple[int, ...], bounds: tuple[tuple[int, ...], ...]) -> bool:
    low, _, high = bounds
    return all(least <= size <= most for least, size, most in zip(low, shape, high, strict=True))


def _described(tensors: tuple[TensorSpec, ...], shapes: Shapes) -> str:
    return ", ".join(f"{tensor.name} {shape}" for tensor, shape in zip(tensors, shapes, strict=True))


class TensorRTBackend:
    """Opens one plan a component."""

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device) -> None:
        self._folder, self._manifest, self._device = folder, manifest, device
        self._trt = tensorrt_module(manifest.runtime)
        self._log = PlanLog(self._trt)
        self._runtime = self._trt.Runtime(self._log.logger)

    def open(self, name: str) -> Engine:
        """Deserialise one plan and compare its tensors with the spec.

        Raises:
            EngineSetRefused: TensorRT does not take the plan, or it has other tensors.
        """
        component = self._manifest.components[name]
        path = self._folder / next(iter(component.files))
        engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise EngineSetRefused(f"{self._manifest.runtime} does not load {path}: {self._log.text}")
        self._check(path, engine, component.spec)
        return TensorRTEngine(engine, component.spec, self._manifest, self._device)

    def _check(self, path: Path, engine: Any, spec: ComponentSpec) -> None:
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        wanted = [tensor.name for tensor in (*spec.inputs, *spec.outputs)]
        if sorted(names) != sorted(wanted):
            raise EngineSetRefused(f"{path} has the tensors {names}, the spec says {wanted}")


def open_backend(folder: Path, manifest: Manifest, placement: Placement) -> TensorRTBackend:
    """The backend of a set in `folder`."""
    return TensorRTBackend(folder, manifest, placement.device)
