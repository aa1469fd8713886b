"""torch, as the registry knows it: a copy of the weights, run eagerly on any device."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.backends.protocol import Backend, Runtime
from engines.backends.recipe import BuildStage, Recipe
from engines.backends.stages import NETWORK_PACKAGES, versions_of, weights_stage
from engines.device import Placement
from engines.errors import BackendUnavailable
from engines.manifest import Manifest, Precision, installed_version
from engines.spec import Profile


class TorchBackend(Backend):
    """Sets hold the weights; any batch and any shape in the profiles runs, on a CPU or a GPU."""

    name = "torch"
    precision_help = "fp32"

    def usual_precision(self) -> Precision:
        """float32: it is what other backends are compared with."""
        return "fp32"

    def recipe(self, *, precision: Precision, profiles: Sequence[Profile], capability: str | None) -> Recipe:
        """Needs diffusers and transformers, also where the set is loaded."""
        assert capability is None, capability
        return Recipe(self.name, "torch", precision, tuple(profiles), None, versions_of(NETWORK_PACKAGES))

    def stages(self, recipe: Recipe, component: str) -> tuple[BuildStage, ...]:
        """One copy of each network."""
        return (weights_stage(recipe, component),)

    def check(self, folder: Path, manifest: Manifest, placement: Placement) -> None:
        """diffusers and transformers have the networks; any version that reads the files serves."""
        del folder, manifest, placement
        for name in NETWORK_PACKAGES:
            if installed_version(name) is None:
                raise BackendUnavailable(
                    f"a torch set needs the package {name}, which is not installed; "
                    "pip install 'batch-renderer[engines]'"
                )

    def open(self, folder: Path, manifest: Manifest, placement: Placement) -> Runtime:
        """`placement.threads` sets torch's threads for the whole process."""
        from engines.backends.torch.runtime import open_set

        return open_set(folder, manifest, placement)
