"""Whether a set's compiled kernels are the ones that this version of the code asks for.

Triton's cache finds a kernel by a key that holds its source and line number. Kernels of an older version of this code
are not found: Triton then compiles at first use, which takes a second per kernel and needs a C compiler. So a set
records the keys that it was built with, and they are compared when it is loaded.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

from engines.backends.triton import hopper
from engines.backends.triton.kernel_cache import has_c_compiler
from engines.errors import EngineSetRefused
from engines.manifest import Manifest, Precision

QUANTIZED_ONLY = ("product_kernel",)  # kernels that only quantized layers use

log = logging.getLogger("engines")


def current_keys(architecture: str | None) -> dict[str, str]:
    """Kernel name -> a digest of its source, which is part of its key in Triton's cache. Needs triton, but no GPU."""
    from engines.backends.triton import kernels, product_kernel

    keys = {kernel.__name__: kernel.cache_key for kernel in (*kernels.KERNELS, *product_kernel.KERNELS)}
    if architecture == hopper.ARCHITECTURE:
        keys[hopper.NAME] = hopper.cache_key()
    return keys


def used_keys(keys: Mapping[str, str], precision: Precision) -> dict[str, str]:
    """The keys of the kernels that sets of this precision use."""
    return {name: key for name, key in keys.items() if precision == "fp8" or name not in QUANTIZED_ONLY}


def check_kernels(
    folder: Path,
    manifest: Manifest,
    *,
    current: Callable[[str | None], Mapping[str, str]] = current_keys,
    can_compile: Callable[[], bool] = has_c_compiler,
) -> None:
    """Compare a set's kernels with the installed code: warn of those that will be compiled at first use.

    Raises:
        EngineSetRefused: kernels have to be compiled, and there is no C compiler; it says how to build the set again.
    """
    which = check_compiler(folder, manifest, current=current, can_compile=can_compile)
    if which is not None:
        command = manifest.build_command(folder)
        log.warning("%s and will be compiled at first use; building the set again saves that: %s", which, command)


def check_compiler(
    folder: Path,
    manifest: Manifest,
    *,
    current: Callable[[str | None], Mapping[str, str]] = current_keys,
    can_compile: Callable[[], bool] = has_c_compiler,
) -> str | None:
    """Which of a set's kernels will be compiled at first use, as half a sentence; None where all match.

    Raises:
        EngineSetRefused: as check_kernels.
    """
    keys = used_keys(current(manifest.architecture), manifest.precision)
    stale = sorted(name for name, key in keys.items() if manifest.kernels.get(name) != key)
    if not stale:
        return None
    which = f"{len(stale)} of {len(keys)} kernels in {folder} were compiled from another version of this code"
    needs_compiler = stale != [hopper.NAME]  # NVRTC compiles that one, without a C compiler
    if needs_compiler and not can_compile():
        command = manifest.build_command(folder)
        raise EngineSetRefused(f"{which}, and there is no C compiler here; build the set again: {command}")
    return which
