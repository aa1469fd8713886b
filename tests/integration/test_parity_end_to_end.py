"""CSV -> producer -> Redis -> worker process -> PNG, against diffusers' own pipeline on the same weights and noise."""

from __future__ import annotations

import csv
import json
import logging
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from engines.check.score import psnr
from tests.integration.conftest import REAL, Site
from tests.models import tiny_engine_set, tiny_model
from tests.reference import Reference

ENOUGH_DB = 50.0

# 256x384 and 128x192 enlarged, 192x128 and 128x128 shrunk: both kinds of resizing, and four shapes that take turns.
PICTURES = {
    "wide.png": ((110, 165), "RGB"),
    "tall.png": ((300, 210), "RGB"),
    "grey.png": ((200, 200), "L"),
    "alpha.png": ((170, 256), "RGBA"),
}
CASES: dict[str, dict[str, str]] = {
    "plain": {"image": "wide.png"},
    "256x384": {"image": "wide.png", "image_resolution": "256", "ddim_steps": "7"},
    "guess mode": {"image": "wide.png", "guess_mode": "true"},
    "guess mode at half strength": {"image": "grey.png", "guess_mode": "true", "strength": "0.5", "ddim_steps": "7"},
    "eta 1": {"image": "wide.png", "eta": "1.0"},
    "eta 0.5, 7 steps, two samples": {"image": "tall.png", "eta": "0.5", "ddim_steps": "7", "num_samples": "2"},
    "strength 0.5": {"image": "wide.png", "strength": "0.5"},
    "two samples": {"image": "wide.png", "num_samples": "2"},
    "7 steps": {"image": "wide.png", "ddim_steps": "7", "scale": "4.5"},
    "another shape": {"image": "tall.png"},
    "grey": {"image": "grey.png", "low_threshold": "50", "high_threshold": "120"},
    "RGBA": {"image": "alpha.png", "ddim_steps": "7"},
    "the picture is the hint": {"image": "wide.png", "control": "none", "ddim_steps": "7"},
    "a hint of its own, stretched": {
        "image": "wide.png", "control": "none", "control_image": "grey.png", "ddim_steps": "7",
    },
    "edges of a control image": {"image": "grey.png", "control_image": "alpha.png", "ddim_steps": "7"},
    "no control": {"image": "grey.png", "ddim_steps": "7", "strength": "0", "n_prompt": "grey, dull"},
}  # fmt: skip


def rows() -> list[dict[str, str]]:
    """The cases as rows of a CSV; seeds given, so that the reference knows them."""
    return [
        {"prompt": "a painting of a house", "seed": "42", "ddim_steps": "20", "image_resolution": "128"} | case
        for case in CASES.values()
    ]


def picture(size: tuple[int, int], mode: str) -> Image.Image:
    """Soft shading with hard shapes on it; half of it transparent where there is alpha."""
    height, width = size
    rng = np.random.default_rng(height * width)
    shading = cv2.resize(rng.integers(60, 160, (6, 6, 3), dtype=np.uint8), (width, height))
    cv2.rectangle(shading, (width // 8, height // 6), (width // 2, height // 2), (230, 200, 40), -1)
    cv2.circle(shading, (2 * width // 3, 2 * height // 3), height // 5, (20, 40, 90), -1)
    image = Image.fromarray(shading).convert(mode)
    if mode == "RGBA":
        image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def write_batch(folder: Path) -> Path:
    for name, (size, mode) in PICTURES.items():
        picture(size, mode).save(folder / name)
    path = folder / "jobs.csv"
    with path.open("w", newline="") as file:
        columns = sorted({column for row in rows() for column in row})
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows())
    return path


def submit(site: Site, path: Path) -> None:
    environment = os.environ | {"RENDER_REDIS_URL": site.redis_url}
    command = [sys.executable, "-m", "producer", "submit", str(path), "--batch", "b", "--wait"]
    done = subprocess.run(
        [*command, "--output", str(site.folder / "out")], env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["counts"]["done"] == len(CASES)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[np.ndarray]]:
    """The reference's pictures by case."""
    folder = tmp_path_factory.mktemp("reference")
    write_batch(folder)
    reference = Reference(tiny_model())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # OpenMP's threads wait for each other by spinning: ten times slower on a busy machine
    try:
        return {name: reference.render(folder / row["image"], row) for name, row in zip(CASES, rows(), strict=True)}
    finally:
        torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_picture_of_a_batch_is_the_one_that_diffusers_draws(
    site: Site, expected: dict[str, list[np.ndarray]]
) -> None:
    # More samples of one shape than fit into a step: jobs share it, and shapes take turns.
    site.start(REAL, engine_dir=tiny_engine_set(), device="cpu", threads=1, jobs_in_flight=16, lease_seconds=10)
    submit(site, write_batch(site.folder))
    results = sorted(site.ledger.results("b"), key=lambda result: result.row)
    decibels = {}
    for name, result in zip(CASES, results, strict=True):
        paths = [Path(uri.removeprefix("file://")) for uri in result.samples]
        pictures = [np.asarray(Image.open(path)) for path in paths]
        decibels[name] = min(psnr(one, other) for one, other in zip(pictures, expected[name], strict=True))
    logging.getLogger(__name__).info("PSNR in dB: %s", {name: round(db, 1) for name, db in decibels.items()})
    assert min(decibels.values()) >= ENOUGH_DB, decibels


@pytest.mark.slow
def test_the_reference_tells_the_cases_apart(expected: dict[str, list[np.ndarray]]) -> None:
    """Parity would mean little if these weights drew the same picture for every row."""
    plain = expected["plain"][0]
    others = {name: expected[name][0] for name in ("guess mode", "eta 1", "strength 0.5", "7 steps")}
    others["the hint"] = expected["the picture is the hint"][0]
    others["second sample"] = expected["two samples"][1]
    likeness = {name: psnr(plain, other) for name, other in others.items()}
    assert max(likeness.values()) < 35, likeness
    assert psnr(plain, expected["two samples"][0]) >= ENOUGH_DB  # the first sample is the job with one
