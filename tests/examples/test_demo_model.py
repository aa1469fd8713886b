"""The weights of `make demo`: they are small and whole, and draw what the rows ask for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from safetensors import safe_open

from engines.build.builder import BuildRequest, build_set
from engines.spec import Profile
from jobs.job import RenderJob, RenderParameters
from jobs.settings import load_settings
from worker.renderer import Renderer, load_renderer

WEIGHTS = Path(__file__).parents[2] / "examples" / "demo-model" / "weights"
LIMIT_BYTES = 40_000_000
SIDE = 256


@pytest.fixture(scope="module")
def renderer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Renderer]:
    out = tmp_path_factory.mktemp("demo-model") / "engine-set"
    build_set(
        BuildRequest(
            model=str(WEIGHTS / "model"),
            controlnet=str(WEIGHTS / "controlnet"),
            out=out,
            backend="torch",
            precision="fp32",
            profiles=(Profile.parse(f"{SIDE}x{SIDE}", max_batch=4),),
        )
    )
    loaded = load_renderer(load_settings(engine_dir=str(out), device="cpu"))
    yield loaded
    loaded.close()


def test_the_weights_are_half_precision_and_at_most_40_megabytes() -> None:
    files = [path for path in WEIGHTS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= LIMIT_BYTES
    tensors = [path for path in files if path.suffix == ".safetensors"]
    assert len(tensors) == 4
    for path in tensors:
        with safe_open(path, "pt") as opened:
            assert {opened.get_slice(name).get_dtype() for name in opened.keys()} <= {"F16", "I64"}, path  # noqa: SIM118


@pytest.mark.slow
def test_pictures_follow_the_edges_where_they_are_asked_to_and_the_hue_in_the_prompt(renderer: Renderer) -> None:
    drawing = np.full((SIDE, SIDE, 3), 230, np.uint8)
    cv2.circle(drawing, (128, 128), 80, (20, 20, 20), -1)
    prompts = ("a circle in red tones", "a circle in blue tones")
    red, blue, free = drawn(renderer, drawing, [(prompts[0], 1.0), (prompts[1], 1.0), (prompts[0], 0.0)])
    assert followed(red, drawing) > 0.8
    assert followed(blue, drawing) > 0.8
    assert followed(free, drawing) < 0.5
    outside = (slice(0, 40), slice(0, SIDE))  # the hue shows most on a light ground
    assert np.median(red[outside][..., 0]) > np.median(red[outside][..., 2]) + 20
    assert np.median(blue[outside][..., 2]) > np.median(blue[outside][..., 0]) + 20


def drawn(renderer: Renderer, drawing: np.ndarray, asked: list[tuple[str, float]]) -> list[np.ndarray]:
    """One picture for each prompt and strength, in one batch."""
    data = cv2.imencode(".png", drawing)[1].tobytes()
    futures = []
    for prompt, strength in asked:
        parameters = RenderParameters(
            image="circle.png", prompt=prompt, strength=strength, image_resolution=SIDE, ddim_steps=10, seed=1
        )
        job = RenderJob.create(parameters, batch="b", row=1, output="out")
        futures.append(renderer.loop.submit(renderer.prepare(job, data).specs[0]))
    while renderer.loop.step():
        pass
    return [future.result() for future in futures]


def followed(picture: np.ndarray, drawing: np.ndarray) -> float:
    """The share of the control's edges with an edge of the picture within two pixels."""
    near = cv2.dilate(cv2.Canny(picture, 100, 200), np.ones((5, 5), np.uint8)) > 0
    return float(near[cv2.Canny(drawing, 100, 200) > 0].mean())
