"""AOTInductor packages: one component, one picture size, one batch size, compiled ahead of time. No weights.

The weights are handed to a package when it is loaded (runtime_inductor.py), so packages of all sizes share one copy on
the device, and a package fits every checkpoint of the same widths.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from engines.errors import BackendUnavailable, BuildFailed
from engines.quiet import quiet_libraries
from engines.spec import ComponentSpec, Profile
from engines.weights import Weights

# How to compile; part of every package's key.
OPTIONS: dict[str, Any] = {"aot_inductor.package_constants_in_so": False}
_STAGE = re.compile(r"(?:(\d+)x(\d+)-)?batch(\d+)")
# Components that see no picture: one package a batch size serves all shapes.
SHAPELESS = ("clip",)


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


def compile_package(job: PackageJob) -> float:
    """Compile one package to its path, whole or not at all; the seconds it took.

    Raises:
        BuildFailed: torch could not export or compile it.
    """
    started = time.monotonic()
    module = _module(job.component, job.weights, job.dtype, job.device)
    arguments = example_inputs(job)
    scratch = job.path.with_name(f".{job.path.name}.new.pt2")  # AOTInductor insists on the suffix
    scratch.parent.mkdir(parents=True, exist_ok=True)
    try:
        with quiet_libraries(), torch.no_grad():
            program = torch.export.export(module, arguments)
            torch._inductor.aoti_compile_and_package(program, package_path=str(scratch), inductor_configs=OPTIONS)
            # A package that torch does not load is found out here, not by a worker; where torch crashes over it, this
            # process ends, and the build says so.
            load_package(scratch, torch.device(job.device))
    except Exception as error:
        raise BuildFailed(f"torch could not compile {job.component} for {job.size.stage}: {error}") from error
    scratch.replace(job.path)
    return time.monotonic() - started


def load_package(path: Path, device: torch.device) -> Any:
    """One package, ready for its weights. Raises RuntimeError where torch does not take it."""
    index = device.index if device.index is not None else -1
    # Single-threaded: the other kind takes locks that a CUDA graph cannot capture.
    return torch._inductor.aoti_load_package(str(path), run_single_threaded=True, device_index=index)


def load_constants(path: Path, device: torch.device) -> dict[str, Tensor]:
    """What `save_parameters` wrote, on a device and in the layout that packages are compiled for."""
    return {name: laid_out(tensor) for name, tensor in load_file(path, device=str(device)).items()}


@lru_cache(maxsize=1)
def _module(component: str, weights: Weights, dtype: torch.dtype, device: str) -> nn.Module:
    """The component on its device, kept for the next size."""
    from engines.models import load_component

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
