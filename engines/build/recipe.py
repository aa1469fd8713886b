"""The recipe of a set on this machine, and the stage of its tokenizer, which all backends share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from engines.backends import registry
from engines.backends.recipe import BuildContext, BuildStage, Recipe
from engines.errors import BackendUnavailable
from engines.manifest import TOKENIZER, Precision
from engines.spec import Profile

# Raise it when the tokenizer's file differs although its inputs are the same.
TOKENIZER_REVISION = 1


def recipe_for(
    name: str,
    *,
    precision: Precision,
    profiles: Sequence[Profile],
    capability: str | None = None,
    version_compatible: bool = False,
) -> Recipe:
    """The recipe of backend `name` on this machine.

    Raises:
        BackendUnavailable: an unknown name, a package is missing, or the backend cannot do what is asked.
    """
    backend = registry.choose(name)
    if capability is not None and not backend.takes_capability:
        takers = ", ".join(each.name for each in registry.backends() if each.takes_capability)
        raise BackendUnavailable(
            f"--compute-capability is for {takers}; {backend.name} sets are built on the machine, or the kind of "
            "machine, that runs them"
        )
    if precision == "fp8" and not backend.takes_calibration:
        takers = ", ".join(each.name for each in registry.backends() if each.takes_calibration)
        raise BackendUnavailable(f"--precision fp8 is for --backend {takers}; {backend.name} has no quantized layers")
    recipe = backend.recipe(precision=precision, profiles=profiles, capability=capability)
    return backend.version_compatible(recipe) if version_compatible else recipe


def tokenizer_stage(recipe: Recipe) -> BuildStage:
    """tokenizer.json, which every set has."""

    def make(context: BuildContext) -> list[Path]:
        context.save_tokenizer()
        return [context.folder / TOKENIZER]

    return BuildStage("tokenizer", [TOKENIZER_REVISION, recipe.versions["transformers"]], make=make)
