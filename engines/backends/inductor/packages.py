"""Inductor packages: one component, one picture size, one batch size, compiled ahead of time. No weights.

A package is inductor's compiled artifact, its machine code among it, and the names of the weights that it takes as
arguments (runtime_inductor.py), so packages of all sizes share one copy on the device, and a package fits every
checkpoint of the same widths. It is not one of AOTInductor's: those compile a C++ wrapper for each, which takes longer
than all kernels together, and torch compiles once more where it loads the first of them (docs/benchmarks.md).
"""

from __future__ import annotations

import json
import re
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

from engines.build.files import archive
from engines.errors import BackendUnavailable, BuildFailed
from engines.model.locate import Weights
from engines.quiet import quiet_libraries
from engines.spec import ComponentSpec, Profile

SUFFIX = ".zip"
# In a package's archive: code, what it takes, and those of its tensors that are no weights.
_CODE, _TAKES, _OWN = "artifact", "takes.json", "own.safetensors"
_STAGE = re.compile(r"(?:(\d+)x(\d+)-)?batch(\d+)")
# Components that see no picture: one package a batch size serves all shapes.
SHAPELESS = ("clip",)


# A component's inputs, in the module's order and in the layout that was compiled for -> its outputs.
Package = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True, order=True)
class Size:
    """What one package is compiled for: images, and pixels (0 for a component that sees no picture)."""

    batch: int
    height: int = 0
    width: int = 0

    @property
    def stage(self) -> str:
        """Its stage's name: '512x512-batch8', or 'batch8'."""
        return f"{self.height}x{self.width}-batch{self.batch}" if self.height else f"batch{self.batch}"

    @classmethod
    def of_stage(cls, stage: str) -> Size | None:
        """The way back; None for another backend's stage."""
        match = _STAGE.fullmatch(stage)
        if match is None:
            return None
        height, width, batch = match.groups()
        return cls(int(batch), int(height or 0), int(width or 0))


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
    def stage(self) -> str:
        """The stage that it makes."""
        return self.size.stage

    @property
    def effort(self) -> int:
        """For sorting: how long it takes, roughly."""
        return self.size.batch * self.size.height * self.size.width

    def compile(self) -> float:
        """Compile to its path; the seconds it took. Raises BuildFailed."""
        return compile_package(self)


def batch_sizes(max_batch: int) -> tuple[int, ...]:
    """1, 2, 4, ... and max_batch itself: a smaller batch is padded to the next of them, by less than its own size."""
    powers = [1 << i for i in range(max_batch.bit_length()) if 1 << i < max_batch]
    return (*powers, max_batch)


def check_profiles(profiles: Sequence[Profile]) -> None:
    """Raises BackendUnavailable for a range of shapes: a package has one."""
    for profile in profiles:
        if (profile.min_height, profile.min_width) != (profile.max_height, profile.max_width):
            raise BackendUnavailable(
                f"inductor compiles for single shapes, {profile.text} is a range; give each shape its own --shape"
            )


def sizes_of(component: str, profiles: Sequence[Profile]) -> tuple[Size, ...]:
    """Every package of one component, smallest first."""
    if component in SHAPELESS:
        return tuple(Size(batch) for batch in batch_sizes(max(profile.max_batch for profile in profiles)))
    return tuple(
        Size(batch, profile.max_height, profile.max_width)
        for profile in profiles
        for batch in batch_sizes(profile.max_batch)
    )


@dataclass(frozen=True)
class Code:
    """A compiled graph, the names of what it takes before its inputs, and those of them that are no weights."""

    graph: Callable[..., Sequence[Tensor]]
    takes: tuple[str, ...]
    own: Mapping[str, Tensor]

    def bound(self, constants: Mapping[str, Tensor]) -> Package:
        """With the weights of its component, on its device. Raises ValueError where one is missing."""
        missing = sorted(set(self.takes) - set(constants) - set(self.own))
        if missing:
            raise ValueError(f"it wants weights that the set does not have: {', '.join(missing[:3])}")
        tensors = [self.own[name] if name in self.own else constants[name] for name in self.takes]
        return lambda *inputs: tuple(self.graph(*tensors, *inputs))


def compile_package(job: PackageJob) -> float:
    """Compile one package to its path, whole or not at all; the seconds it took.

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
    weights = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    # What the module's code makes, such as the zero of a mask: no checkpoint has it, and some of it stays on the host.
    own = {name: program.constants[name].contiguous() for name in takes if name not in weights}
    on_host = [name for name, tensor in own.items() if tensor.device != inputs[0].device]
    arguments = [*((weights | own)[name].detach() for name in takes), *inputs]
    # A cache of its own: what an earlier build left in the usual one would be missing in the package.
    with fresh_cache(), tempfile.TemporaryDirectory(prefix="package-") as name:
        compiled = standalone_compile(program.graph_module, arguments, dynamic_shapes="from_example_inputs", aot=True)
        folder = Path(name)
        compiled.save(path=str(folder / _CODE))
        (folder / _TAKES).write_text(json.dumps({"tensors": takes, "on_host": on_host}))
        (folder / _OWN).write_bytes(save(own))
        archive(folder, path)


def load_code(path: Path, device: torch.device) -> Code:
    """One package, without weights. It was pickled: load what you, or somebody you trust, built.

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
    """What `save_parameters` wrote, on a device and in the layout that packages are compiled for."""
    return {name: laid_out(tensor) for name, tensor in load_file(path, device=str(device)).items()}


@lru_cache(maxsize=1)
def _module(component: str, weights: Weights, dtype: torch.dtype, device: str) -> nn.Module:
    """The component on its device, kept for the next size."""
    from engines.model.networks import load_component

    with quiet_libraries():
        return prepared(load_component(component, weights, dtype), torch.device(device))


def prepared(module: nn.Module, device: torch.device) -> nn.Module:
    """On the device, channels last on a GPU: convolutions there are twice as fast in that layout."""
    if device.type == "cuda":
        return module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    return module.to(device)


def laid_out(tensor: Tensor) -> Tensor:
    """A tensor in the layout that packages are compiled for: pictures channels last on a GPU."""
    if tensor.is_cuda and tensor.dim() == 4:
        return tensor.contiguous(memory_format=torch.channels_last)
    return tensor.contiguous()


def example_inputs(job: PackageJob) -> tuple[Tensor, ...]:
    """Inputs of the size to compile for, in the module's order."""
    return tuple(
        laid_out(
            torch.zeros(
                tensor.sized(job.size.batch, height=job.size.height, width=job.size.width),
                dtype=torch.int64 if tensor.dtype == "int64" else job.dtype,
                device=job.device,
            )
        )
        for tensor in job.spec.inputs
    )
