"""Inductor packages: one component, one picture size, one batch size, compiled ahead of time. No weights.

A package holds inductor's compiled artifact, machine code included, and the names of the weights that it takes as
arguments (runtime.py). So packages of all sizes share one copy of the weights on the device, and a package fits every
checkpoint of the same widths. It is not an AOTInductor package: those compile a C++ wrapper each, which takes longer
than all kernels together, and torch compiles once more when it loads the first of them.
"""

from __future__ import annotations

import json
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors.torch import load, load_file, save
from torch import Tensor, nn
from torch._inductor import standalone_compile
from torch._inductor.standalone_compile import AOTCompiledArtifact
from torch._inductor.utils import fresh_cache

from engines.backends.inductor.sizes import Size
from engines.errors import BuildFailed
from engines.files import archive
from engines.model.constants import tensors_of
from engines.model.libraries import quiet_libraries
from engines.model.locate import Weights
from engines.model.networks import load_component
from engines.spec import ComponentSpec

SUFFIX = ".zip"
# In a package's archive: the code, the names of the tensors that it takes, and those of them that are not weights.
_CODE, _TAKES, _OWN = "artifact", "takes.json", "own.safetensors"
# A component's inputs, in the module's order and in the layout that it was compiled for -> its outputs.
Package = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class PackageJob:
    """One compilation, as it is sent to another process."""

    component: str
    size: Size
    spec: ComponentSpec
    weights: Weights
    dtype: torch.dtype
    device: str
    path: Path

    @property
    def effort(self) -> int:
        """How long it takes, roughly."""
        return self.size.batch * self.size.height * self.size.width

    def compile(self) -> float:
        """Compile to its path; returns the seconds it took. Raises BuildFailed."""
        return compile_package(self)


@dataclass(frozen=True)
class Code:
    """A compiled graph, the names of the tensors that it takes before its inputs, and those that are not weights."""

    graph: Callable[..., Sequence[Tensor]]
    takes: tuple[str, ...]
    own: Mapping[str, Tensor]

    def bound(self, constants: Mapping[str, Tensor]) -> Package:
        """The graph with its component's weights, on the same device. Raises ValueError if one is missing."""
        missing = sorted(set(self.takes) - set(constants) - set(self.own))
        if missing:
            raise ValueError(f"it wants weights that the set does not have: {', '.join(missing[:3])}")
        tensors = [self.own[name] if name in self.own else constants[name] for name in self.takes]
        return lambda *inputs: tuple(self.graph(*tensors, *inputs))


def compile_package(job: PackageJob) -> float:
    """Compile one package to its path, whole or not at all; returns the seconds it took.

    Raises:
        BuildFailed: torch could not export or compile it.
    """
    started = time.monotonic()
    module = _module(job.component, job.weights, job.dtype, job.device)
    try:
        with quiet_libraries(), torch.no_grad():
            _write(job.path, module, example_inputs(job))
    except Exception as error:
        raise BuildFailed(f"torch could not compile {job.component} for {job.size.stage}: {error}") from error
    return time.monotonic() - started


def _write(path: Path, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    program = torch.export.export(module, inputs)
    takes = [str(spec.target) for spec in program.graph_signature.input_specs[: -len(inputs)]]
    weights = tensors_of(module)
    # Tensors that the module's code makes, such as a mask's zero. No checkpoint has them; some stay on the host.
    own = {name: program.constants[name].contiguous() for name in takes if name not in weights}
    on_host = [name for name, tensor in own.items() if tensor.device != inputs[0].device]
    arguments = [*((weights | own)[name].detach() for name in takes), *inputs]
    # A cache of its own: code that an earlier build left in the usual cache would be missing from the package.
    with fresh_cache(), tempfile.TemporaryDirectory(prefix="package-") as name:
        compiled = standalone_compile(program.graph_module, arguments, dynamic_shapes="from_example_inputs", aot=True)
        folder = Path(name)
        compiled.save(path=str(folder / _CODE))
        (folder / _TAKES).write_text(json.dumps({"tensors": takes, "on_host": on_host}))
        (folder / _OWN).write_bytes(save(own))
        archive(folder, path)


def load_code(path: Path, device: torch.device) -> Code:
    """Load one package, without weights. It is a pickle: load only packages from a source that you trust.

    Raises:
        ValueError: another torch compiled it.
    """
    with zipfile.ZipFile(path) as file, tempfile.TemporaryDirectory(prefix="package-") as folder:
        takes = json.loads(file.read(_TAKES))
        own = load(file.read(_OWN))
        try:
            graph = AOTCompiledArtifact.load(path=file.extract(_CODE, folder))
        except AssertionError as error:
            raise ValueError("it was compiled by another torch") from error
    placed = {name: tensor if name in takes["on_host"] else tensor.to(device) for name, tensor in own.items()}
    return Code(graph, tuple(takes["tensors"]), placed)


def load_constants(path: Path, device: torch.device) -> dict[str, Tensor]:
    """A component's constants (model/constants.py) on a device, in the layout that packages are compiled for."""
    return {name: laid_out(tensor) for name, tensor in load_file(path, device=str(device)).items()}


@lru_cache(maxsize=1)
def _module(component: str, weights: Weights, dtype: torch.dtype, device: str) -> nn.Module:
    """The component on its device, cached for the next size."""
    with quiet_libraries():
        return prepared(load_component(component, weights, dtype), torch.device(device))


def prepared(module: nn.Module, device: torch.device) -> nn.Module:
    """The module on the device, in channels last on a GPU: convolutions there are twice as fast in that layout."""
    if device.type == "cuda":
        return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return module.to(device)


def laid_out(tensor: Tensor) -> Tensor:
    """A tensor in the layout that packages are compiled for: on a GPU, pictures are channels last."""
    if tensor.is_cuda and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def example_inputs(job: PackageJob) -> tuple[Tensor, ...]:
    """Inputs of the size to compile for, in the module's order."""
    return tuple(
        laid_out(
            torch.zeros(
                tensor.sized(job.size.batch, height=job.size.height, width=job.size.width, chunks=job.size.chunks),
                dtype=torch.int64 if tensor.dtype == "int64" else job.dtype,
                device=job.device,
            )
        )
        for tensor in job.spec.inputs
    )
