"""An onnxruntime set's components, on the CPU: sessions are bound to torch's memory, nothing is copied in or out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor

from engines.backends.protocol import Engine, Runtime
from engines.device import Placement
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
        """Bind the tensors and run."""
        binding = self._session.io_binding()
        # The binding holds addresses, not tensors: this keeps the tensors alive until the run is over.
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


class OnnxRuntime(Runtime):
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


def _check(path: Path, tensors: list[Any], expected: tuple[TensorSpec, ...]) -> None:
    have = [(value.name, value.type, len(value.shape)) for value in tensors]
    want = [(tensor.name, _ORT_TYPES[tensor.dtype], len(tensor.shape)) for tensor in expected]
    if have != want:
        raise EngineSetRefused(f"{path} has the tensors {have}, the spec says {want}")


def open_set(folder: Path, manifest: Manifest, placement: Placement) -> OnnxRuntime:
    """The runtime of a set in `folder`; `placement.threads` as in `session_options`."""
    return OnnxRuntime(folder, manifest, session_options(placement.threads))


def session_options(threads: int | None = None) -> ort.SessionOptions:
    """Options that make all sessions of this process share one pool; the first call sets its size (None: all cores).

    Idle threads spin for work, which saves waking them for every operator. By default onnxruntime gives each session a
    pool of its own, and the ControlNet's idle threads would take the cores from the U-Net's.
    """
    if not _pool:
        ort.set_global_thread_pool_sizes(threads or 0, 1)
        _pool.append(threads or 0)
    options = ort.SessionOptions()
    options.use_per_session_threads = False
    options.log_severity_level = 3
    return options


_pool: list[int] = []  # the pool's size, once there is a pool: onnxruntime takes it once a process
