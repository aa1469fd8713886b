"""What a backend is: one object that knows all that the command line, a build and a worker need of it.

A backend's module imports its libraries (torch too) inside the methods that need them: the registry imports every
backend, and the command line must start without any of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from engines.backends.recipe import BuildStage, Recipe
from engines.device import Placement, choose_device
from engines.errors import BackendUnavailable
from engines.manifest import Manifest, Precision, installed_version
from engines.spec import Profile

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Engine(Protocol):
    """One component as a callable; names, shapes and dtypes as in spec.py."""

    def __call__(self, inputs: Mapping[str, Tensor], /) -> dict[str, Tensor]:
        """Named tensors on the set's device -> named tensors there."""


@dataclass(frozen=True)
class Clipping:
    """How many of the values that a component's quantized layers read were clipped, and the layer with the most."""

    clipped: int
    values: int
    worst_layer: str
    worst_share: float


class Runtime(ABC):
    """One opened set: it opens components, and holds what they share."""

    @abstractmethod
    def open(self, name: str) -> Engine:
        """Load one component; it lives until the engine is dropped.

        Raises:
            EngineSetRefused: the library does not take its file, or finds other tensors in it.
        """

    def predict(self, controlnet: Engine, unet: Engine, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """EngineSet.predict with these two engines: one after the other, unless a backend knows a faster way."""
        return unet({**inputs, **controlnet(inputs)})

    def forget_shapes(self, engine: Engine) -> None:
        """Free what one of its engines keeps for the shapes that it has met. No graph that holds it is used again."""
        del engine

    def watch(self) -> None:
        """Components that are opened from now on count what their quantized layers clip, which takes time."""
        return

    def clipped(self) -> Mapping[str, Clipping]:
        """What was counted, by component; empty without quantized layers."""
        return {}


class Backend(ABC):
    """One way to run the networks. registry.py has the list; a backend's folder has all that only it knows."""

    name: ClassVar[str]  # what --backend and manifests call it
    precision_help: ClassVar[str]  # `usual_precision` in words, for --help
    takes_capability: ClassVar[bool] = False  # whether --compute-capability may name the GPU to build for
    takes_ranges: ClassVar[bool] = True  # whether a profile may be a range of sizes
    takes_calibration: ClassVar[bool] = False  # whether it has --precision fp8, whose sets are calibrated
    compiles: ClassVar[bool] = False  # whether stages compile in processes of their own, whose number --jobs sets

    @abstractmethod
    def usual_precision(self) -> Precision:
        """The precision of a set for this machine if the user does not name one."""

    @abstractmethod
    def recipe(self, *, precision: Precision, profiles: Sequence[Profile], capability: str | None) -> Recipe:
        """What a set is built for on this machine. `capability` is None unless the backend takes one.

        Raises:
            BackendUnavailable: a package is missing, or the backend cannot build this here.
        """

    def version_compatible(self, recipe: Recipe) -> Recipe:
        """The recipe of a set that a smaller package than the builder loads (--version-compatible).

        Raises:
            BackendUnavailable: there is no such package.
        """
        raise BackendUnavailable(f"--version-compatible is for tensorrt; {recipe.runtime} loads what it built")

    def installed_version(self, runtime: str) -> str | None:
        """The installed version of the package that loads a set (Manifest.runtime), None without it."""
        return installed_version(runtime)

    @abstractmethod
    def stages(self, recipe: Recipe, component: str) -> tuple[BuildStage, ...]:
        """A component's stages, in order."""

    @abstractmethod
    def open(self, folder: Path, manifest: Manifest, placement: Placement) -> Runtime:
        """Open the set in `folder`, whose manifest, files, versions and architecture were checked.

        Raises:
            BackendUnavailable: this machine lacks what the backend needs.
            EngineSetRefused: this version of the backend cannot run the set.
        """

    def check(self, folder: Path, manifest: Manifest, placement: Placement) -> None:
        """Refuse a set that `open` would refuse here for what this machine lacks. No file of the set is read.

        `folder` is for sentences: `engines pull` asks before there is one. Versions and architecture were checked.

        Raises:
            BackendUnavailable, EngineSetRefused: as `open`.
        """
        del folder, manifest, placement

    def preference(self, *, gpu: bool) -> int:
        """How well it serves this machine, for `--backend auto`: the highest is taken, 0 is used only by name.

        `gpu`: whether there is an NVIDIA GPU here.
        """
        del gpu
        return 0

    def device(self, wanted: str, architecture: str | None) -> torch.device:
        """Where a set runs: `wanted` is 'auto', 'cpu' or 'cuda', `architecture` the manifest's.

        Raises:
            BackendUnavailable: an unknown name, or a device that is not here or that it cannot use.
        """
        return choose_device(wanted, backend=self.name, architecture=architecture)

    def batch_sizes(self, max_batch: int) -> tuple[int, ...]:
        """The batches (images) it compiles for, ascending to `max_batch`: it pads a batch to the next of them.

        An empty tuple means that any batch runs unpadded.
        """
        del max_batch
        return ()

    def input_scales(self, folder: Path, manifest: Manifest) -> dict[str, dict[str, float]]:
        """What the inputs of quantized layers are divided by, by component and layer, as the set's files say."""
        del folder, manifest
        return {}

    def kernel_keys(self, recipe: Recipe) -> dict[str, str]:
        """Name -> key of each compiled kernel, for the manifest: at load they tell whether kernels still match."""
        del recipe
        return {}
