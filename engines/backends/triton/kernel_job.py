"""Compile one component's kernels: run it at every size, and archive what Triton compiled."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from engines.backends.triton.components import ENGINES
from engines.backends.triton.kernel_cache import archive_kernels, empty_cache
from engines.backends.triton.parameters import Parameters
from engines.backends.triton.precisions import QUANTIZED_COMPONENTS, calibration_size
from engines.backends.triton.quantize import layer_names
from engines.backends.triton.quantize import quantized as quantized_parameters
from engines.backends.triton.tiles import LARGE, USUAL, box_of
from engines.device import dtype_of
from engines.errors import BuildFailed, ModelRefused
from engines.manifest import Precision
from engines.model.libraries import quiet_libraries
from engines.model.locate import Weights
from engines.model.networks import load_component
from engines.spec import PIXEL_MULTIPLE, ComponentSpec, Profile

# The picture, three halvings of the VAE, three of the U-Net.
LEVELS = 7
FIRST_LATENT_LEVEL = 3
# As in kernels.py, which needs triton (a test compares them).
WHOLE, CHUNK_PIXELS, CHUNKS = 16384, 256, 256


@dataclass(frozen=True)
class KernelJob:
    """One component's kernels to compile, as it is sent to another process: Triton keeps one cache a process."""

    component: str
    spec: ComponentSpec
    weights: Weights
    precision: Precision
    profiles: tuple[Profile, ...]
    path: Path

    @property
    def effort(self) -> int:
        """A component with more tensors has more kernels, roughly."""
        return len(self.spec.inputs) + len(self.spec.outputs)

    def compile(self) -> float:
        """Run the component at every size and archive what Triton compiled; returns the seconds it took.

        Raises:
            BuildFailed: a kernel does not compile or run.
            ModelRefused: the weights cannot be read any more.
        """
        began = time.monotonic()
        try:
            with empty_cache() as folder:
                self._run()
                archive_kernels(folder, self.path)
        except ModelRefused:
            raise
        except Exception as error:  # Triton's own errors have no common root with torch's
            raise BuildFailed(f"{self.component}'s kernels could not be compiled: {error}") from error
        return time.monotonic() - began

    def _run(self) -> None:
        with quiet_libraries(), torch.inference_mode():
            dtype = dtype_of(self.precision)
            parameters = Parameters.of(load_component(self.component, self.weights, dtype).to("cuda"))
            quantized = self.precision == "fp8" and self.component in QUANTIZED_COMPONENTS
            if quantized:  # kernels are the same for all scales
                names = layer_names(self.component, parameters)
                parameters = quantized_parameters(parameters, dict.fromkeys(names, 1.0))
            engine = ENGINES[self.component](parameters)
            for size in sizes(self.profiles, quantized=quantized):
                engine(self._inputs(*size))
            if quantized:  # `engines verify` also needs the norms that watched layers see, at this size
                watched = ENGINES[self.component](replace(parameters, observers={}))
                watched(self._inputs(1, *calibration_size(self.profiles)))
            torch.cuda.synchronize()

    def _inputs(self, batch: int, height: int, width: int) -> dict[str, Tensor]:
        dtype = dtype_of(self.precision)
        return {
            tensor.name: torch.zeros(
                tensor.sized(batch, height=height, width=width),
                dtype=torch.int64 if tensor.dtype == "int64" else dtype,
                device="cuda",
            )
            for tensor in self.spec.inputs
        }


def sizes(profiles: Iterable[Profile], *, quantized: bool = False) -> list[tuple[int, int, int]]:
    """(images, height, width) that together need every kernel of these profiles: a few, however wide a range is.

    Kernels are compiled for what a size makes of their constants (`constants`), so one size stands for all that make
    the same. With quantized layers they also differ with the proportions of a picture (`_with_each_box`). With the
    batch they differ only where a small one does not fill the GPU: a profile's smallest and largest sizes in all
    batches have both kinds. tests/engines/backends/triton/test_ranges.py holds this against the launches of the
    networks at every size of a range.
    """
    needed: set[tuple[int, int, int]] = set()
    for profile in profiles:
        powers = (1 << i for i in range(profile.max_batch.bit_length()))
        needed |= {
            (batch, *size)
            for batch in (*powers, profile.max_batch)
            for size in _different(profile, quantized=quantized)
        }
    return sorted(needed)


def _different(profile: Profile, *, quantized: bool) -> list[tuple[int, int]]:
    """The sizes of a profile, fewest pixels first, that have constants which none before them has; and the largest."""
    heights = range(profile.min_height, profile.max_height + 1, PIXEL_MULTIPLE)
    widths = range(profile.min_width, profile.max_width + 1, PIXEL_MULTIPLE)
    by_pixels = {height * width: (height, width) for height in heights for width in widths}
    known: set[tuple[int, str, int]] = set()
    different = {(profile.max_height, profile.max_width)}
    for pixels, size in sorted(by_pixels.items()):
        own = constants(pixels)
        if not own <= known:
            different.add(size)
            known |= own
    if quantized:
        different |= _with_each_box([(height, width) for height in heights for width in widths])
    return sorted(different)


def _with_each_box(shapes: Sequence[tuple[int, int]]) -> set[tuple[int, int]]:
    """The smallest and the largest size for each form of a tile at each level, within each doubling of pixels.

    The tile also depends on how many of them there are: these sizes, in all batches, have few, some and many.
    """
    ends: dict[object, list[tuple[int, int]]] = {}
    for height, width in sorted(shapes, key=math.prod):
        doubling = (height * width).bit_length()
        for level, pixels in product(range(FIRST_LATENT_LEVEL, LEVELS), (USUAL.pixels, LARGE.pixels)):
            box = box_of(pixels, 2, height >> level, width >> level)
            ends.setdefault((doubling, level, box), []).append((height, width))
    return {size for found in ends.values() for size in (found[0], found[-1])}


def constants(pixels: int) -> set[tuple[int, str, int]]:
    """(level, name, value) of the constants that a picture's size gives to the kernels: group_norm's, and no others.

    Features at a level have `pixels` / 4 ** level pixels: from the picture's own down to the U-Net's deepest.
    """
    found = set()
    for level in range(LEVELS):
        features = pixels >> 2 * level
        whole = _power_of_two(features)
        if whole <= WHOLE:
            found.add((level, "PIXELS", whole))
        found.add((level, "CHUNKS", min(CHUNKS, _power_of_two(features // CHUNK_PIXELS))))
    return found


def _power_of_two(count: int) -> int:
    """The next one, and at least 1."""
    return 1 << max(0, count - 1).bit_length()
