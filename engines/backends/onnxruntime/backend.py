"""onnxruntime, as the registry knows it: ONNX graphs in float32, on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engines.backends.protocol import Backend, Runtime
from engines.backends.recipe import BuildStage, Recipe
from engines.backends.stages import EXPORT_PACKAGES, export_stage, versions_of
from engines.device import Placement
from engines.errors import BackendUnavailable
from engines.manifest import Manifest, Precision
from engines.spec import Profile

if TYPE_CHECKING:
    import torch


class OnnxRuntimeBackend(Backend):
    """Sets hold one graph a component, with attention as onnxruntime's own operator."""

    name = "onnxruntime"
    precision_help = "fp32"

    def preference(self, *, gpu: bool) -> int:
        """The choice on a machine without a GPU."""
        del gpu
        return 1

    def usual_precision(self) -> Precision:
        """fp32, the only precision."""
        return "fp32"

    def recipe(self, *, precision: Precision, profiles: Sequence[Profile], capability: str | None) -> Recipe:
        """A recipe; BackendUnavailable unless the precision is fp32."""
        assert capability is None, capability
        if precision != "fp32":
            raise BackendUnavailable("onnxruntime sets run on the CPU, in fp32 only; use --precision fp32")
        versions = versions_of([*EXPORT_PACKAGES, self.name])
        return Recipe(self.name, self.name, precision, tuple(profiles), None, versions)

    def stages(self, recipe: Recipe, component: str) -> tuple[BuildStage, ...]:
        """An export that other runtimes cannot read."""
        return (export_stage(recipe, component, prepare=_fuse_attention, prepared_as="fused attention"),)

    def device(self, wanted: str, architecture: str | None) -> torch.device:
        """The CPU; BackendUnavailable if a GPU is wanted."""
        if wanted == "cuda":
            raise BackendUnavailable("an onnxruntime set runs on the CPU; build one with tensorrt or torch for the GPU")
        return super().device("cpu" if wanted == "auto" else wanted, architecture)

    def open(self, folder: Path, manifest: Manifest, placement: Placement) -> Runtime:
        """All sets of a process share one pool of threads: the first one's `placement.threads`."""
        from engines.backends.onnxruntime.runtime import open_set

        return open_set(folder, manifest, placement)


def _fuse_attention(module: Any) -> None:
    from engines.backends.onnxruntime.attention import fuse_attention

    fuse_attention(module)
