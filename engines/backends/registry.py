"""The backends there are, by name, and the choice of the best one for a machine.

A new backend is a folder here, its import, and its line in the list below.
"""

from __future__ import annotations

from pathlib import Path

from engines.backends.inductor.backend import InductorBackend
from engines.backends.onnxruntime.backend import OnnxRuntimeBackend
from engines.backends.protocol import Backend
from engines.backends.tensorrt.backend import TensorRTBackend
from engines.backends.torch.backend import TorchBackend
from engines.backends.triton.backend import TritonBackend
from engines.device import has_gpu
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.manifest import MANIFEST, Manifest

AUTO = "auto"

_BACKENDS: dict[str, Backend] = {
    backend.name: backend
    for backend in (TensorRTBackend(), TritonBackend(), InductorBackend(), OnnxRuntimeBackend(), TorchBackend())
}


def register(backend: Backend) -> None:
    """Add a backend under its name."""
    assert backend.name not in _BACKENDS, backend.name
    _BACKENDS[backend.name] = backend


def unregister(name: str) -> None:
    """Remove a backend."""
    del _BACKENDS[name]


def names() -> tuple[str, ...]:
    """All names, in the order in which help and messages list them."""
    return tuple(_BACKENDS)


def backends() -> tuple[Backend, ...]:
    """All backends, in the same order."""
    return tuple(_BACKENDS.values())


def choose(wanted: str) -> Backend:
    """The backend of that name, or the one that serves this machine best if it is 'auto'.

    Raises:
        BackendUnavailable: an unknown name.
    """
    if wanted == AUTO:
        gpu = has_gpu()
        return max(backends(), key=lambda backend: backend.preference(gpu=gpu))
    if wanted not in _BACKENDS:
        raise BackendUnavailable(f"unknown backend {wanted!r}; use {AUTO}, {', '.join(names())}")
    return _BACKENDS[wanted]


def backend_of(folder: Path, manifest: Manifest) -> Backend:
    """The backend that a set was built with; `folder` is the set's, for the message.

    Raises:
        EngineSetRefused: this version has no such backend.
    """
    if manifest.backend not in _BACKENDS:
        *most, last = map(repr, names())
        known = f"{', '.join(most)} or {last}"
        raise EngineSetRefused(f"{folder / MANIFEST} is not valid at backend: Input should be {known}")
    return _BACKENDS[manifest.backend]
