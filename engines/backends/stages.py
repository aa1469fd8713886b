"""Stages that several backends share: the weights copied, a component's constants, its ONNX export."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from engines.backends.recipe import BuildContext, BuildStage, Recipe
from engines.device import dtype_of
from engines.errors import BackendUnavailable
from engines.manifest import EXPORT, installed_version
from engines.model.locate import PART_OF

NETWORK_PACKAGES = ("torch", "diffusers", "transformers")
EXPORT_PACKAGES = (*NETWORK_PACKAGES, "onnx")
WEIGHTS, CONSTANTS = "weights", "constants"
# The components that see the prompts: only their graphs differ where a prompt may have several chunks.
WITH_CONTEXT = ("controlnet", "unet")
# Raise one when its stage makes other files from the same inputs.
WEIGHTS_REVISION, CONSTANTS_REVISION, EXPORT_REVISION = 1, 2, 3


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """The installed versions, by package.

    Raises:
        BackendUnavailable: naming the first package that is not installed.
    """
    return {package: _version(package) for package in packages}


def _version(package: str) -> str:
    version = installed_version(package)
    if version is None:
        raise BackendUnavailable(f"building needs the package {package}, which is not installed")
    return version


def made_by(recipe: Recipe) -> dict[str, str]:
    """The versions of the packages that read and export the networks."""
    return {package: recipe.versions[package] for package in EXPORT_PACKAGES if package in recipe.versions}


def weights_stage(recipe: Recipe, component: str) -> BuildStage:
    """A copy of the network's weights in diffusers' layout and the set's precision."""
    part = PART_OF[component]

    def make(context: BuildContext) -> list[Path]:
        folder = context.folder / WEIGHTS / part
        getattr(context.networks(), part).save_pretrained(folder)
        return sorted(path for path in folder.iterdir() if path.is_file())

    return BuildStage(WEIGHTS, [WEIGHTS_REVISION, part, recipe.precision, made_by(recipe)], make=make)


def constants_stage(recipe: Recipe, component: str) -> BuildStage:
    """The component's tensors and settings as one safetensors file (model/constants.py)."""

    def make(context: BuildContext) -> list[Path]:
        from engines.model.constants import save_constants

        path = context.folder / CONSTANTS / f"{component}.safetensors"
        return [save_constants(context.module(component), path)]

    return BuildStage(CONSTANTS, [CONSTANTS_REVISION, component, recipe.precision, made_by(recipe)], make=make)


def export_stage(
    recipe: Recipe, component: str, *, prepare: Callable[[Any], object] | None = None, prepared_as: str | None = None
) -> BuildStage:
    """The component as an ONNX graph.

    `prepare` changes the torch module before it is traced; `prepared_as` names that change in the stage's key.
    """

    def make(context: BuildContext) -> list[Path]:
        from engines.model.onnx_export import export_onnx

        module = context.module(component)
        if prepare is not None:
            prepare(module)
        dtype = dtype_of(recipe.precision)
        return export_onnx(module, context.specs[component], dtype=dtype, folder=context.folder)

    inputs: list[object] = [EXPORT_REVISION, component, recipe.precision, made_by(recipe)]
    if prepared_as is not None:
        inputs.append(prepared_as)
    if recipe.context_chunks > 1 and component in WITH_CONTEXT:
        inputs.append("dynamic context")  # whatever the number: the graph is the same
    return BuildStage(EXPORT, inputs, make=make)
