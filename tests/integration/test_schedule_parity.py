"""Weights and configuration -> engine set -> job -> PNG, against diffusers' pipeline with the same configuration.

One case for each thing that a scheduler_config.json, an original .yaml or a checkpoint may say about the mathematics.
"""

from __future__ import annotations

import io
import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from engines.build.builder import BuildRequest, build_set
from engines.check.score import psnr
from engines.manifest import load_manifest
from engines.noise_schedule import NoiseSchedule
from engines.spec import Profile
from jobs.job import RenderJob, RenderParameters
from jobs.settings import load_settings
from tests.engines.original import CONFIG, Original, make_original, save
from tests.integration.test_parity_end_to_end import picture
from tests.models import tiny_model
from tests.reference import Reference
from worker.renderer import load_renderer

Rows = Sequence[Mapping[str, str]]

ENOUGH_DB = 50.0
APART_DB = 45.0  # what another configuration's picture must stay below, for the comparison to mean something
ROWS = (
    {"prompt": "a painting of a house", "seed": "42", "ddim_steps": "5", "image_resolution": "64"},
    {"prompt": "a painting of a cat", "seed": "5", "ddim_steps": "3", "image_resolution": "64", "eta": "0.5"},
)
# The weights of the single files are not scaled as trained ones are. With x0 and the default guidance of 9 they enlarge
# every rounding error from step to step, in diffusers too.
LOW_GUIDANCE = tuple(row | {"scale": "2"} for row in ROWS)
BASE: dict[str, Any] = {
    "_class_name": "DDIMScheduler",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
}
V = {"prediction_type": "v_prediction"}
ZERO_SNR = V | {"rescale_betas_zero_snr": True}
FOLDERS: dict[str, dict[str, Any]] = {
    "epsilon": {},
    "PNDM's file": {"_class_name": "PNDMScheduler", "skip_prk_steps": True},
    "v_prediction": V,
    "sample": {"prediction_type": "sample"},
    "linear betas": {"beta_schedule": "linear"},
    "cosine betas": {"beta_schedule": "squaredcos_cap_v2"},
    "other betas": {"beta_start": 0.0001, "beta_end": 0.02},
    "trained betas": {"trained_betas": np.geomspace(0.0005, 0.02, 1000).tolist()},
    "zero SNR": ZERO_SNR,
    "zero SNR, trailing": ZERO_SNR | {"timestep_spacing": "trailing"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "no offset": {"steps_offset": 0},
    "offset 20": {"steps_offset": 20},
    "alpha one": {"set_alpha_to_one": True},
    "400 timesteps": {"num_train_timesteps": 400},
}
LIKE_SD15 = ("epsilon", "PNDM's file", "alpha one")  # the last one differs by less than a level in most pixels


@cache
def source_picture() -> bytes:
    buffer = io.BytesIO()
    picture((110, 110), "RGB").save(buffer, "PNG")
    return buffer.getvalue()


def ours(engine_set: Path, rows: Rows = ROWS) -> list[np.ndarray]:
    """The rows as a worker draws them, together in one batch."""
    renderer = load_renderer(load_settings(engine_dir=str(engine_set), device="cpu", threads=1))
    try:
        jobs = [
            RenderJob.create(
                RenderParameters.model_validate({"image": "file:///picture.png", **row}), batch="b", row=1, output="out"
            )
            for row in rows
        ]
        prepared = [renderer.prepare(job, source_picture()) for job in jobs]
        futures = [renderer.loop.submit(one.specs[0]) for one in prepared]
        while renderer.loop.step():
            pass
        pngs = [
            renderer.encode(job, one, 0, future.result(60))
            for job, one, future in zip(jobs, prepared, futures, strict=True)
        ]
        return [np.asarray(Image.open(io.BytesIO(png))) for png in pngs]
    finally:
        renderer.close()


class Diffusers:
    """Draws the rows as diffusers does, with one scheduler configuration after the other."""

    def __init__(self, weights: Path, folder: Path, rows: Rows = ROWS) -> None:
        self._reference = Reference(weights)
        self._folder = folder
        self._rows = rows
        (folder / "picture.png").write_bytes(source_picture())

    def draw(self, scheduler: dict[str, Any]) -> list[np.ndarray]:
        (self._folder / "scheduler_config.json").write_text(json.dumps(BASE | scheduler))
        self._reference.schedule_from(self._folder)
        return [self._reference.render(self._folder / "picture.png", row)[0] for row in self._rows]


def built(
    out: Path, model: Path, controlnet: Path | None, *, tokenizer: Path | None = None, config: Path | None = None
) -> Path:
    build_set(
        BuildRequest(
            model=str(model),
            controlnet=None if controlnet is None else str(controlnet),
            out=out,
            backend="torch",
            precision="fp32",
            profiles=(Profile.parse("64x64", max_batch=2),),
            tokenizer=None if tokenizer is None else str(tokenizer),
            original_config=None if config is None else str(config),
        )
    )
    return out


def model_with(folder: Path, scheduler: dict[str, Any], *, vae: dict[str, Any] | None = None) -> Path:
    """The tiny model with other configurations, at folder/weights."""
    weights = Path(shutil.copytree(tiny_model(), folder / "weights"))
    (weights / "model" / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    path = weights / "model" / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | (vae or {})))
    return weights


def worst(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    """The lowest PSNR of the rows, in dB; `--log-cli-level=INFO` shows it."""
    decibels = min(psnr(mine, yours) for mine, yours in zip(one, other, strict=True))
    logging.getLogger(__name__).info("PSNR %.1f dB", decibels)
    return decibels


@pytest.fixture(scope="module")
def diffusers(tmp_path_factory: pytest.TempPathFactory) -> Diffusers:
    return Diffusers(tiny_model(), tmp_path_factory.mktemp("diffusers"))


@pytest.fixture(scope="module")
def plain(diffusers: Diffusers) -> list[np.ndarray]:
    """The rows with SD1.5's configuration."""
    return diffusers.draw({})


@pytest.mark.slow
@pytest.mark.parametrize("case", FOLDERS)
def test_a_folder_is_rendered_as_its_scheduler_says(
    case: str, tmp_path: Path, diffusers: Diffusers, plain: list[np.ndarray]
) -> None:
    weights = model_with(tmp_path, BASE | FOLDERS[case])
    pictures = ours(built(tmp_path / "set", weights / "model", weights / "controlnet"))
    assert worst(pictures, diffusers.draw(FOLDERS[case])) >= ENOUGH_DB
    if case not in LIKE_SD15:
        assert worst(pictures, plain) < APART_DB


@pytest.mark.slow
def test_the_vaes_scaling_factor_is_the_models(tmp_path: Path, plain: list[np.ndarray]) -> None:
    weights = model_with(tmp_path, BASE, vae={"scaling_factor": 0.13025})
    pictures = ours(built(tmp_path / "set", weights / "model", weights / "controlnet"))
    assert worst(pictures, Diffusers(weights, tmp_path).draw({})) >= ENOUGH_DB
    assert worst(pictures, plain) < APART_DB


@pytest.mark.slow
def test_a_set_without_a_schedule_is_rendered_as_before(tmp_path: Path, plain: list[np.ndarray]) -> None:
    """Manifests of before had none, whatever the model said."""
    weights = model_with(tmp_path, BASE | V)
    out = built(tmp_path / "set", weights / "model", weights / "controlnet")
    load_manifest(out).model_copy(update={"schedule": None}).save(out)
    assert worst(ours(out), plain) >= ENOUGH_DB
    built(out, weights / "model", weights / "controlnet")
    assert load_manifest(out).schedule == NoiseSchedule(prediction_type="v_prediction")


YAMLS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # what the .yaml has, and the same for diffusers
    "eps": ({}, {}),
    "v": ({"parameterization": "v"}, V),
    "x0": ({"parameterization": "x0"}, {"prediction_type": "sample"}),
    "linear_end": ({"linear_end": 0.02}, {"beta_end": 0.02}),
    "sqrt_linear": ({"beta_schedule": "sqrt_linear"}, {"beta_schedule": "linear"}),
    "cosine": ({"beta_schedule": "cosine"}, {"beta_schedule": "squaredcos_cap_v2"}),
    "timesteps": ({"timesteps": 400}, {"num_train_timesteps": 400}),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Original:
    return make_original(tmp_path_factory.mktemp("original"))


@pytest.fixture(scope="module")
def of_the_file(original: Original, tmp_path_factory: pytest.TempPathFactory) -> Diffusers:
    return Diffusers(original.model.parent, tmp_path_factory.mktemp("diffusers"), LOW_GUIDANCE)


@pytest.fixture(scope="module")
def plain_file(of_the_file: Diffusers) -> list[np.ndarray]:
    """The rows with SD1.5's configuration."""
    return of_the_file.draw({})


def set_of_file(original: Original, folder: Path, params: dict[str, Any], tensors: dict[str, torch.Tensor]) -> Path:
    model = save(original.tensors | tensors, folder / "model.safetensors")
    config = folder / "model.yaml"
    config.write_text(
        yaml.safe_dump({"model": CONFIG["model"] | {"params": CONFIG["model"]["params"] | params}}, sort_keys=False)
    )
    return built(folder / "set", model, None, tokenizer=original.tokenizer, config=config)


@pytest.mark.slow
@pytest.mark.parametrize("case", YAMLS)
def test_a_single_file_is_rendered_as_its_yaml_says(
    case: str, original: Original, of_the_file: Diffusers, plain_file: list[np.ndarray], tmp_path: Path
) -> None:
    params, scheduler = YAMLS[case]
    pictures = ours(set_of_file(original, tmp_path, params, {}), LOW_GUIDANCE)
    assert worst(pictures, of_the_file.draw(scheduler)) >= ENOUGH_DB
    if scheduler:
        assert worst(pictures, plain_file) < APART_DB


@pytest.mark.slow
def test_a_single_file_is_rendered_with_its_own_alphas(
    original: Original, of_the_file: Diffusers, plain_file: list[np.ndarray], tmp_path: Path
) -> None:
    betas = np.geomspace(0.0005, 0.02, 1000)
    own = {"alphas_cumprod": torch.from_numpy(np.cumprod(1 - betas)).float()}
    pictures = ours(set_of_file(original, tmp_path, {}, own), LOW_GUIDANCE)
    assert worst(pictures, of_the_file.draw({"trained_betas": betas.tolist()})) >= ENOUGH_DB
    assert worst(pictures, plain_file) < APART_DB
