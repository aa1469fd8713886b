"""The installed TensorRT package, `tensorrt` or `tensorrt_rtx` (the same API), and the GPUs that it builds for.

`tensorrt_lean` is the half of `tensorrt` that runs plans: it serves version-compatible ones, and builds none.

`tensorrt_rtx` builds for a named compute capability without a GPU; `tensorrt` builds for the GPU that is here.
"""

from __future__ import annotations

import importlib
import re
from typing import Any

from engines.errors import BackendUnavailable
from engines.manifest import installed_version

PACKAGES = ("tensorrt", "tensorrt_rtx")
LEAN = "tensorrt_lean"
RUNTIMES = (*PACKAGES, LEAN)
# A package is installed under its own name, or under that of a CUDA version alone.
_VARIANTS = ("", "_cu13", "_cu12")


def version_of(package: str) -> str | None:
    """The installed version of one of RUNTIMES, None where it is not installed."""
    versions = (installed_version(f"{package}{variant}") for variant in _VARIANTS)
    return next((version for version in versions if version is not None), None)


def builder_of(runtime: str) -> str:
    """The package that builds plans for one of RUNTIMES."""
    return "tensorrt" if runtime == LEAN else runtime


def package_name() -> str:
    """The installed one of PACKAGES.

    Raises:
        BackendUnavailable: neither is installed.
    """
    for package in PACKAGES:
        if version_of(package) is not None:
            return package
    raise BackendUnavailable("neither tensorrt nor tensorrt-rtx is installed; docs/engines.md says how")


def tensorrt_module(package: str) -> Any:
    """The imported package; callers know its API.

    Raises:
        BackendUnavailable: it is installed, but its libraries do not load.
    """
    try:
        return importlib.import_module(package)
    except (ImportError, OSError) as error:
        raise BackendUnavailable(f"{package} is installed but does not load: {error}") from error


def cuda_runtime() -> Any:
    """cuda-python's runtime API, which CUDA graphs are made with.

    Raises:
        BackendUnavailable: it is not installed.
    """
    try:
        from cuda.bindings import runtime
    except ImportError as error:
        raise BackendUnavailable("the tensorrt backend needs cuda-python for CUDA graphs; install it") from error
    return runtime


def why_not_run() -> str | None:
    """Why TensorRT plans cannot run on this machine's GPU, as half a sentence; None if they can."""
    try:
        package = package_name()
        tensorrt_module(package)
    except BackendUnavailable as error:
        return str(error)
    if not _listed(package) and not _runs_what_it_does_not_list(package):
        return f"tensorrt_rtx does not support its compute capability, {_current_architecture()}"
    return None


def is_best() -> bool:
    """Whether TensorRT has kernels made for this machine's GPU; a GPU that it does not list, it runs slowly."""
    return why_not_run() is None and _listed(package_name())


def _listed(package: str, architecture: str | None = None) -> bool:
    """Whether the package has kernels made for an architecture; without one, for this machine's GPU."""
    return package == "tensorrt" or (architecture or _current_architecture()) in _known(package)


def _known(package: str) -> list[str]:
    """The compute capabilities that tensorrt_rtx lists, as 'sm89'."""
    return [name.lower() for name in tensorrt_module(package).ComputeCapability.__members__ if name[:2] == "SM"]


def architecture(capability: str | None) -> str:
    """The compute capability to build for, as 'sm89'.

    Raises:
        BackendUnavailable: no GPU is here or named, or the package does not build for this one.
    """
    package = package_name()
    if capability is None:
        capability = _current_architecture()
    elif not re.fullmatch(r"sm\d{2,3}", capability):
        raise BackendUnavailable(f"{capability!r} is not a compute capability; write it as sm89")
    if package == "tensorrt_rtx":
        known = _known(package)
        unlisted = capability == _own_capability() and _runs_what_it_does_not_list(package)
        if capability not in known and not unlisted:
            raise BackendUnavailable(f"tensorrt_rtx does not build for {capability}; it knows {', '.join(known)}")
    elif capability != _current_architecture():
        raise BackendUnavailable(f"tensorrt builds for the GPU that is here, {_current_architecture()}, only")
    return capability


def check_precision(architecture: str, precision: str) -> None:
    """Refuse float32 on GPUs that the package does not list: there it silently runs fp32 as TF32.

    Convolutions, matrix products and attention by tensorrt_rtx 1.4.0.76 on sm90 have errors of 3e-4 to 4e-4 of their
    norm (TF32's ten bits), with `config.clear_flag(TF32)` and without it.

    Raises:
        BackendUnavailable: `precision` is fp32, and the package does not list this architecture.
    """
    if precision == "fp32" and not _listed(package_name(), architecture):
        raise BackendUnavailable(
            f"tensorrt_rtx does not list {architecture}, and there it multiplies float32 with the ten bits of TF32; "
            "use --precision fp16, or another backend"
        )


def _runs_what_it_does_not_list(package: str) -> bool:
    """tensorrt_rtx 1.4.0.76 runs on an H200 (sm90), which it does not list; 1.7.1 refuses to."""
    major, minor = (int(part) for part in str(version_of(package)).split(".")[:2])
    return (major, minor) < (1, 5)


def _own_capability() -> str | None:
    """This machine's compute capability, None without a GPU."""
    try:
        return _current_architecture()
    except BackendUnavailable:
        return None


def _current_architecture() -> str:
    import torch

    if not torch.cuda.is_available():
        raise BackendUnavailable("there is no NVIDIA GPU here; name the one to build for: --compute-capability sm89")
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"
