"""`engines score`: how far the pictures of one set are from another's, for the same seeds, prompts and edges.

Noise, schedule and guidance are those of docs/lifecycle.md. The schedule is diffusers' own, not the worker's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from engines.engine_set import EngineSet, load_engine_set
from engines.errors import EngineSetRefused
from engines.model.libraries import library, quiet_libraries
from engines.noise_schedule import NoiseSchedule
from engines.spec import CONTROLS

PROMPTS = (
    "a photograph of a lighthouse by the sea at sunset, best quality, extremely detailed",
    "an oil painting of a cat on a chair, best quality, extremely detailed",
    "a pencil drawing of an old bridge in the snow, best quality, extremely detailed",
    "a portrait of an astronaut, studio light, best quality, extremely detailed",
)
NEGATIVE = "longbody, lowres, bad anatomy, bad hands, missing fingers"
GUIDANCE = 9.0


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
        EngineSetRefused: a set does not load, was not built for this size, or the two have different weights.
    """
    rendered = []
    weights = None
    for folder in (path, reference):
        with load_engine_set(folder, device=device, weights=weights) as engines:
            weights = engines.manifest.source.weights
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
        EngineSetRefused: the set was not built for this size.
    """
    if not engines.supports(request.height, request.width):
        raise EngineSetRefused(
            f"{engines.folder} was built for {engines.shapes_text()}, not for {request.height}x{request.width}"
        )
    for seed in range(request.samples):
        yield _picture(engines, request, seed)


@torch.inference_mode()
def _picture(engines: EngineSet, request: ScoreRequest, seed: int) -> np.ndarray:
    dtype = engines.io_dtype
    latents = _noise(engines, request, seed)
    edges = torch.from_numpy(edges_for(request.height, request.width, seed)).to(engines.device, dtype) / 255
    hint = edges.expand(1, 3, -1, -1).contiguous()
    constant = {
        "context": _context(engines, PROMPTS[seed % len(PROMPTS)]),
        "guided_hint": engines.engine("hint")({"hint": hint})["guided_hint"].repeat(2, 1, 1, 1),
        "control_scales": torch.ones(2, CONTROLS, device=engines.device, dtype=dtype),
    }
    scheduler = _scheduler(engines.noise_schedule, request.steps)
    for time in scheduler.timesteps:
        step = {
            "x_noisy": latents.to(dtype).repeat(2, 1, 1, 1),
            "timestep": torch.full((2,), float(time), device=engines.device, dtype=dtype),
        }
        predicted = engines.predict(constant | step)["latent"].float()
        unconditional, conditional = predicted.chunk(2)
        guided = unconditional + GUIDANCE * (conditional - unconditional)
        latents = scheduler.step(guided, time, latents).prev_sample
    scaled = (latents / engines.geometry.scaling_factor).to(dtype)
    image = engines.engine("decoder")({"latent": scaled})["image"][0].float().cpu()
    pixels: np.ndarray = (image * 127.5 + 127.5).clip(0, 255).to(torch.uint8).permute(1, 2, 0).numpy()
    return pixels


def _noise(engines: EngineSet, request: ScoreRequest, seed: int) -> Tensor:
    """Drawn on the CPU in float32: the same for every backend."""
    shape = (1, engines.geometry.latent_channels, request.height // 8, request.width // 8)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed)).to(engines.device)


def _context(engines: EngineSet, prompt: str) -> Tensor:
    """The negative prompt and `prompt`, encoded: [2,77,C]."""
    from tokenizers import Tokenizer

    tokenizer, geometry = Tokenizer.from_file(str(engines.tokenizer_path)), engines.geometry
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows = []
    for text in (NEGATIVE, prompt):
        ids = tokenizer.encode(text, add_special_tokens=False).ids[: geometry.context_length - 2]
        padding = [geometry.pad_token_id] * (geometry.context_length - 2 - len(ids))
        rows.append([geometry.bos_token_id, *ids, geometry.eos_token_id, *padding])
    encode = engines.engine("clip")
    texts = torch.split(torch.tensor(rows, device=engines.device), 1)
    return torch.cat([encode({"input_ids": text})["last_hidden_state"] for text in texts])


def _scheduler(schedule: NoiseSchedule, steps: int) -> Any:
    try:
        with quiet_libraries():
            scheduler = library("diffusers").DDIMScheduler(**schedule.model_dump(), clip_sample=False)
        scheduler.set_timesteps(steps)
    except ValueError as error:
        raise EngineSetRefused(f"{steps} steps cannot be rendered: {error}") from error
    if int(scheduler.timesteps.max()) >= schedule.num_train_timesteps:
        raise EngineSetRefused(f"{steps} steps cannot be rendered: the first would be after the last training timestep")
    return scheduler


def edges_for(height: int, width: int, seed: int) -> np.ndarray:
    """Canny edges of a few random shapes: uint8 [H, W], 0 or 255. The seed decides the shapes."""
    edges: np.ndarray = cv2.Canny(shapes_for(height, width, seed), 100, 200)
    return edges


def shapes_for(height: int, width: int, seed: int) -> np.ndarray:
    """A few random shapes in grey: uint8 [H, W]."""
    random = np.random.default_rng(seed)
    canvas = np.full((height, width), 128, np.uint8)
    for _ in range(8):
        left, top, right, bottom = (int(random.integers(0, side)) for side in (width, height, width, height))
        shade = int(random.integers(0, 256))
        if random.random() < 0.5:
            cv2.rectangle(canvas, (left, top), (right, bottom), shade, -1)
        else:
            cv2.circle(canvas, (left, top), min(height, width) // 6 + right % 16, shade, -1)
    return canvas
