"""Batching changes nothing: what a sample looks like does not depend on what it was rendered with."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from engines.check.score import psnr
from engines.engine_set import EngineSet, load_engine_set
from tests.models import tiny_engine_set
from worker.prepare import GUESS_DECAY
from worker.render.denoiser import EngineDenoiser
from worker.render.loop import RenderLoop
from worker.render.request import ImageSpec

ENOUGH_DB = 50.0
MAX_BATCH = 4


@pytest.fixture(scope="module", params=["onnxruntime", "torch"])
def engines(request: pytest.FixtureRequest) -> Iterator[EngineSet]:
    backend: str = request.param
    threads = torch.get_num_threads()
    with load_engine_set(tiny_engine_set(backend, max_batch=MAX_BATCH), device="cpu", threads=1) as engines:
        yield engines
    torch.set_num_threads(threads)


def edges(kind: int, height: int, width: int) -> np.ndarray:
    """A different edge map for each kind."""
    canvas = np.zeros((height, width), np.uint8)
    cv2.circle(canvas, (width // 2, height // 2), 8 + 6 * kind, 255)
    cv2.line(canvas, (0, 10 * kind), (width - 1, height - 1), 255)
    return canvas


def request(number: int, *, steps: int = 6, size: tuple[int, int] = (64, 128), **values: Any) -> ImageSpec:
    ids = np.full(77, 300 + number, np.int64)
    fields: dict[str, Any] = {
        "eta": 0.0,
        "scale": 7.0,
        "cond_control_scales": (1.0,) * 13,
        "uncond_control_scales": (1.0,) * 13,
    }
    return ImageSpec(
        job_id=str(number),
        sample=0,
        edges=edges(number, *size),
        cond_ids=ids,
        uncond_ids=np.full(77, 7, np.int64),
        seed=number,
        steps=steps,
        **(fields | values),
    )


GUESS: dict[str, Any] = {
    "cond_control_scales": tuple(GUESS_DECAY ** (12 - i) for i in range(13)),
    "uncond_control_scales": (0.0,) * 13,
}
# Different in everything but shape, and one of another shape that takes turns with them.
MIXED = [
    request(0, steps=7),
    request(1, steps=3, eta=1.0, scale=3.0),
    request(2, steps=9, **GUESS),
    request(3, steps=5, scale=12.0, cond_control_scales=(0.5,) * 13, uncond_control_scales=(0.5,) * 13),
    request(4, steps=4, eta=0.5),
    request(5, steps=4, size=(128, 64)),
    request(6, steps=1),
    request(7, steps=6, eta=0.2),
]


def run(loop: RenderLoop) -> None:
    while loop.step():
        pass


def alone(denoiser: EngineDenoiser, one: ImageSpec) -> np.ndarray:
    loop = RenderLoop(denoiser)
    future = loop.submit(one)
    run(loop)
    assert loop.stats().batch_sizes == {1: one.steps}
    return future.result(0)


def together(denoiser: EngineDenoiser, samples: list[ImageSpec]) -> tuple[list[np.ndarray], RenderLoop]:
    """All of them in one loop, each arriving when the one before it has taken a step: no two are at the same step."""
    loop = RenderLoop(denoiser)
    futures: list[Future[np.ndarray]] = []
    for one in samples:
        futures.append(loop.submit(one))
        loop.step()
    run(loop)
    return [future.result(0) for future in futures], loop


def test_a_sample_is_the_same_alone_and_in_a_full_batch_of_mixed_steps(engines: EngineSet) -> None:
    denoiser = EngineDenoiser(engines)
    pictures, loop = together(denoiser, MIXED)
    assert loop.stats().batch_sizes[MAX_BATCH] >= 2, loop.stats()
    likeness = [psnr(alone(denoiser, one), picture) for one, picture in zip(MIXED, pictures, strict=True)]
    assert min(likeness) >= ENOUGH_DB, likeness


def test_mixed_batches_keep_apart_what_they_mix(engines: EngineSet) -> None:
    pictures, _ = together(EngineDenoiser(engines), MIXED)
    same_shape = [picture for one, picture in zip(MIXED, pictures, strict=True) if one.shape == (64, 128)]
    for i, picture in enumerate(same_shape):
        assert all(psnr(picture, other) < 35 for other in same_shape[i + 1 :])


def test_low_vram_changes_no_picture(engines: EngineSet) -> None:
    pictures, _ = together(EngineDenoiser(engines), MIXED[:2])
    lean, _ = together(EngineDenoiser(engines, low_vram=True), MIXED[:2])
    assert min(psnr(one, other) for one, other in zip(pictures, lean, strict=True)) >= ENOUGH_DB
