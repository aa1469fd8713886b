"""The onnxruntime backend, on the CPU: torch's memory is bound to the session, nothing is copied in or out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from engines.engine_set import Backend, Engine, Placement
from engines.errors import EngineSetRefused
from engines.manifest import Manifest
from engines.spec import ComponentSpec, TensorSpec

_NUMPY = {torch.float32: np.float32, torch.int64: np.int64}
_ORT_TYPES = {"float": "tensor(float)", "int64": "tensor(int64)"}


class OnnxEngine:
    """One session as an Engine. Outputs are fresh torch tensors that onnxruntime writes into."""

    def __init__(self, session: ort.InferenceSession, spec: ComponentSpec) -> None:
        self._session = session
        self._spec = spec

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bind, run."""
        binding = self._session.io_binding()
        # Held until the run is over: the binding knows addresses, not tensors.
        fed = {tensor.name: inputs[tensor.name].contiguous() for tensor in self._spec.inputs}
        for name, tensor in fed.items():
            binding.bind_input(name, "cpu", 0, _NUMPY[tensor.dtype], tuple(tensor.shape), tensor.data_ptr())
        sizes = self._sizes(fed)
        outputs = {tensor.name: torch.empty(tensor.with_sizes(sizes)) for tensor in self._spec.outputs}
        for name, tensor in outputs.items():
            binding.bind_output(name, "cpu", 0, np.float32, tuple(tensor.shape), tensor.data_ptr())
        self._session.run_with_iobinding(binding)
        return outputs

    def _sizes(self, fed: Mapping[str, Tensor]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for tensor in self._spec.inputs:
            sizes |= tensor.sizes_of(tuple(fed[tensor.name].shape))
        return sizes


class OnnxBackend(Backend):
    """Opens one session a component; all share the options."""

    def __init__(self, folder: Path, manifest: Manifest, options: ort.SessionOptions) -> None:
        self._folder = folder
        self._manifest = manifest
        self._options = options

    def open(self, name: str) -> Engine:
        """Load one graph and compare its tensors with the spec.

        Raises:
            EngineSetRefused: onnxruntime does not take the file, or it has other tensors.
        """
        component = self._manifest.components[name]
        path = self._folder / next(file for file in component.files if file.endswith(".onnx"))
        try:
            session = ort.InferenceSession(str(path), self._options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise EngineSetRefused(f"onnxruntime does not load {path}: {error}") from error
        _check(path, session.get_inputs(), component.spec.inputs)
        _check(path, session.get_outputs(), component.spec.outputs)
        return OnnxEngine(session, component.spec)


def _check(path: Path, found: list[Any], expected: tuple[TensorSpec, ...]) -> None:
    have = [(value.name, value.type, len(value.shape)) for value in found]
    want = [(tensor.name, _ORT_TYPES[tensor.dtype], len(tensor.shape)) for tensor in expected]
    if have != want:
        raise EngineSetRefused(f"{path} has the tensors {have}, the spec says {want}")


def open_backend(folder: Path, manifest: Manifest, placement: Placement) -> OnnxBackend:
    """The backend of a set in `folder`; `placement.threads` as in `session_options`."""
    return OnnxBackend(folder, manifest, session_options(placement.threads))


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Options with which all sessions of this process share one pool; the first call sets its size (None: all cores).

    Idle threads spin for work, which saves waking them for every operator. With a pool a session, as onnxruntime has it
    by default, those of the control net's would take the cores from the U-Net's.
    """
    if not _pool:
        ort.set_global_thread_pool_sizes(threads or 0, 1)
        _pool.append(threads or 0)
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    return options


_pool: list[int] = []  # its size, once there is one: onnxruntime takes it once a process
