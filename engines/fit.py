"""Whether a set fits this machine: what loading asks of its manifest before it reads any other file.

`engines pull` asks the same of a manifest whose files are still in a bucket.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engines.backends.registry import backend_of
from engines.device import Placement, architecture_of
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.manifest import Manifest

if TYPE_CHECKING:
    import torch


def placement_for(folder: Path, manifest: Manifest, *, device: str = "auto", threads: int | None = None) -> Placement:
    """Where a set runs on this machine; `device` is 'auto', 'cpu' or 'cuda', `folder` is for sentences.

    Raises:
        EngineSetRefused: the set was built for another version, another GPU or another CPU.
        BackendUnavailable: its backend is not installed, or needs a device that is not here.
    """
    backend = backend_of(folder, manifest)
    installed = backend.installed_version(manifest.runtime)
    check_installed(manifest, installed)
    placement = Placement(backend.device(device, manifest.architecture), threads)
    check_version(manifest, installed)  # after the device: without it, no version would run
    check_architecture(manifest, placement.device)
    backend.check(folder, manifest, placement)
    return placement


def check_installed(manifest: Manifest, installed: str | None) -> None:
    """Raises BackendUnavailable if the runtime's package has no version here."""
    if installed is None:
        package = manifest.runtime
        raise BackendUnavailable(
            f"the set needs the package {package} ({manifest.versions[package]}), which is not installed"
        )


def check_version(manifest: Manifest, installed: str | None) -> None:
    """Raises EngineSetRefused if the runtime's package has another version than at build time."""
    package, built = manifest.runtime, manifest.versions[manifest.runtime]
    if installed != built:
        raise EngineSetRefused(f"the set was built for {package} {built}, but {installed} is installed; build it again")


def check_architecture(manifest: Manifest, device: torch.device) -> None:
    """Raises EngineSetRefused if the set's machine code is for another GPU, or another CPU."""
    if manifest.architecture is None:
        return
    own = architecture_of(device)
    if own != manifest.architecture:
        raise EngineSetRefused(
            f"the set was built for {manifest.architecture}, this machine's {_name(device)} is {own}"
        )


def _name(device: torch.device) -> str:
    import torch

    return f"GPU ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "CPU"
