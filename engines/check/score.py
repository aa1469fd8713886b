"""`engines score`: how far the pictures of one set are from another's, for the same seeds, prompts and edges.

The sampling loop is sampler/sample.py's, with diffusers' own schedule, not the worker's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from engines.engine_set import EngineSet, check_weights, load_engine_set
from engines.errors import EngineSetRefused
from engines.fit import placement_for
from engines.manifest import Manifest, load_manifest
from engines.sampler.sample import sample
from engines.sampler.subjects import built_in

NOT_NUMBERS = (
    "{folder}: the picture of seed {seed} has values that are not numbers; engines verify tells which engine does"
)


@dataclass(frozen=True)
class ScoreRequest:
    """The pictures to render: `samples` of one size in pixels, from seeds 0, 1, ..., in `steps` DDIM steps."""

    height: int
    width: int
    samples: int
    steps: int


@dataclass(frozen=True)
class Distance:
    """How far two uint8 pictures are apart. `psnr_db` is infinite for equal ones."""

    psnr_db: float
    largest: int

    def to_json(self) -> dict[str, object]:
        """The distance for JSON, where null stands for infinity."""
        return {"psnr_db": None if math.isinf(self.psnr_db) else round(self.psnr_db, 2), "largest": self.largest}


def score(path: Path, reference: Path, request: ScoreRequest, *, device: str = "auto") -> list[Distance]:
    """Render with both sets, and compare sample by sample.

    Raises:
        EngineSetRefused: as `rendered_by_both`.
    """
    return [distance(*pair) for pair in rendered_by_both(path, reference, request, device=device)]


def rendered_by_both(
    path: Path, reference: Path, request: ScoreRequest, *, device: str = "auto"
) -> list[tuple[np.ndarray, np.ndarray]]:
    """A pair of pictures a seed, each uint8 [H, W, 3]: one set renders all of its own first, so the sets are never both
    in memory.

    Raises:
        EngineSetRefused: a set does not load, was not built for this size, gives values that are not numbers, or the
            two have different weights. What the manifests say of it is said before anything is rendered.
        BackendUnavailable: as load_engine_set.
    """
    weights = None
    for folder in (path, reference):
        manifest = load_manifest(folder)
        check_weights(manifest, weights)
        placement_for(folder, manifest, device=device)
        _check_size(folder, manifest, request)
        weights = manifest.source.weights
    rendered = []
    for folder in (path, reference):
        with load_engine_set(folder, device=device, weights=weights) as engines:
            rendered.append(list(pictures(engines, request)))
    return list(zip(*rendered, strict=True))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    """Peak signal-to-noise ratio of two uint8 pictures in dB; infinite if they are equal."""
    assert one.shape == other.shape, f"{one.shape} and {other.shape}"
    error = float(((one.astype(np.float64) - other.astype(np.float64)) ** 2).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)


def distance(one: np.ndarray, other: np.ndarray) -> Distance:
    """PSNR, and the largest difference of one value."""
    largest = int(np.abs(one.astype(np.int16) - other.astype(np.int16)).max())
    return Distance(psnr(one, other), largest)


def pictures(engines: EngineSet, request: ScoreRequest) -> Iterator[np.ndarray]:
    """Render one picture a seed, uint8 [H, W, 3].

    Raises:
        EngineSetRefused: the set was not built for this size, or gives values that are not numbers.
    """
    _check_size(engines.folder, engines.manifest, request)
    for seed in range(request.samples):
        yield _picture(engines, request, seed)


def _check_size(folder: Path, manifest: Manifest, request: ScoreRequest) -> None:
    if not manifest.covers(request.height, request.width):
        raise EngineSetRefused(
            f"{folder} was built for {manifest.shapes_text}, not for {request.height}x{request.width}"
        )


@torch.inference_mode()
def _picture(engines: EngineSet, request: ScoreRequest, seed: int) -> np.ndarray:
    latents = sample(engines, built_in(request.height, request.width, seed), steps=request.steps)
    scaled = (latents / engines.geometry.scaling_factor).to(engines.io_dtype)
    image = engines.engine("decoder")({"latent": scaled})["image"][0].float().cpu()
    if not torch.isfinite(image).all():  # as bytes two such pictures would be equal
        raise EngineSetRefused(NOT_NUMBERS.format(folder=engines.folder, seed=seed))
    pixels: np.ndarray = (image * 127.5 + 127.5).clip(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels
