"""An inductor set's components: packages compiled ahead of time that share one copy of the weights on the device."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from engines.backends.inductor.packages import Code, Package, laid_out, load_code, load_constants
from engines.backends.inductor.sizes import Size
from engines.backends.protocol import Engine, Runtime
from engines.backends.stages import CONSTANTS
from engines.device import Placement
from engines.errors import EngineSetRefused
from engines.file_check import replaced
from engines.files import file_sha256
from engines.manifest import Component, Manifest
from engines.spec import ComponentSpec, TensorSpec


class InductorEngine:
    """The packages of one component as an Engine: a batch is padded to the smallest package that it fits."""

    def __init__(self, sizes: Iterable[Size], package: Callable[[Size], Package], spec: ComponentSpec) -> None:
        """`package` loads the package of one size; it is called when a batch first needs that size."""
        self._sizes = sorted(sizes)
        self._package = lru_cache(maxsize=None)(package)
        self._spec = spec
        self._sees_pictures = all(size.height for size in self._sizes)

    @torch.inference_mode()
    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run on the current stream; outputs are fresh tensors."""
        sizes: dict[str, int] = {}
        for tensor in self._spec.inputs:
            sizes |= tensor.sizes_of(tuple(inputs[tensor.name].shape))
        size = self._size_for(sizes)
        given = [
            laid_out(padded(inputs[tensor.name], rows(tensor, size.batch) - inputs[tensor.name].shape[0]))
            for tensor in self._spec.inputs
        ]
        outputs = self._package(size)(*given)
        wanted = [rows(tensor, _images(sizes)) for tensor in self._spec.outputs]
        pairs = zip(self._spec.outputs, outputs, wanted, strict=True)
        return {tensor.name: output[:count] for tensor, output, count in pairs}

    def _size_for(self, sizes: Mapping[str, int]) -> Size:
        images = _images(sizes)
        height, width = (8 * sizes["h"], 8 * sizes["w"]) if self._sees_pictures else (0, 0)
        wanted = Size(images, height, width, sizes.get("k", 1))
        fitting = [size for size in self._sizes if size.batch >= images and replace(size, batch=images) == wanted]
        if not fitting:
            built = ", ".join(size.stage for size in self._sizes)
            raise ValueError(f"{self._spec.name} was not built for {wanted.stage}, only: {built}")
        return min(fitting)


def _images(sizes: Mapping[str, int]) -> int:
    """N, also for a component whose inputs show only R = 2N."""
    return sizes["N"] if "N" in sizes else -(-sizes["R"] // 2)


def rows(tensor: TensorSpec, images: int) -> int:
    """The size of a tensor's first axis for so many images."""
    return 2 * images if tensor.shape[0] == "R" else images


def padded(tensor: Tensor, missing: int) -> Tensor:
    """`tensor` with `missing` more rows: copies of the last row, since the norm of zeros would be divided by."""
    if missing <= 0:
        return tensor
    return torch.cat([tensor, tensor[-1:].expand(missing, *tensor.shape[1:])])


class InductorRuntime(Runtime):
    """Opens the packages of a component and gives them its weights."""

    def __init__(self, folder: Path, manifest: Manifest, device: torch.device) -> None:
        self._folder, self._manifest, self._device = folder, manifest, device
        self._codes: dict[str, Code] = {}  # by the file's SHA-256; kept while an engine is off the device

    def open(self, name: str) -> Engine:
        """Read the weights, without diffusers. Packages are loaded when a batch first needs them: a set has many."""
        component = self._manifest.components[name]
        (stored,) = component.stages[CONSTANTS].files
        constants = load_constants(self._folder / stored, self._device)
        files = self._files(component)
        return InductorEngine(files, lambda size: self._package(*files[size], constants), component.spec)

    def _files(self, component: Component) -> dict[Size, tuple[Path, str]]:
        """By size: the package and its SHA-256."""
        sized = ((Size.of_stage(name), stage.files) for name, stage in component.stages.items())
        first = ((size, *next(iter(files.items()))) for size, files in sized if size is not None)
        return {size: (self._folder / name, sha256) for size, name, sha256 in first}

    def _package(self, path: Path, sha256: str, constants: dict[str, Tensor]) -> Package:
        try:
            if sha256 not in self._codes:
                self._codes[sha256] = _shared_code(path, sha256, self._device)
            return self._codes[sha256].bound(constants)
        except (torch.OutOfMemoryError, EngineSetRefused):
            raise
        except Exception as error:  # torch does not document what unpacking compiled code may raise
            raise EngineSetRefused(f"torch does not load {path}: {error}; build the set again") from error


_shared: WeakValueDictionary[tuple[str, torch.device], Code] = WeakValueDictionary()


def _shared_code(path: Path, sha256: str, device: torch.device) -> Code:
    """The code of a package: one copy for all sets of this process that have the same file."""
    code = _shared.get((sha256, device))
    if code is None:
        if file_sha256(path) != sha256:  # it may be read hours after the set was checked
            raise replaced(path)
        code = _shared[sha256, device] = load_code(path, device)
    return code


def open_set(folder: Path, manifest: Manifest, placement: Placement) -> InductorRuntime:
    """The runtime of a set in `folder`; `placement.threads` sets torch's threads for the whole process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own modules
        import_module("torch._inductor.compile_fx")  # otherwise the first step would import it
    torch._inductor.config.compile_threads = 1  # nothing is compiled here: start no processes for it
    if placement.threads is not None and placement.device.type == "cpu":
        torch.set_num_threads(placement.threads)
    return InductorRuntime(folder, manifest, placement.device)
