"""The sampling loop: from noise to latents in DDIM steps, through a set's engines and diffusers' own schedule.

Noise, schedule and guidance are those of docs/lifecycle.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from engines.errors import EngineSetRefused
from engines.model.libraries import library, quiet_libraries
from engines.noise_schedule import NoiseSchedule
from engines.sampler.subjects import Subject
from engines.spec import CONTROLS, Geometry

GUIDANCE = 9.0
Engine = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]


class Sampled(Protocol):
    """What the loop needs of an engine set."""

    device: torch.device

    @property
    def io_dtype(self) -> torch.dtype:
        """dtype of every floating input and output."""

    @property
    def geometry(self) -> Geometry:
        """The model's sizes."""

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The model's noise levels and timesteps."""

    @property
    def tokenizer_path(self) -> Path:
        """The path of its tokenizer.json."""

    def engine(self, name: str) -> Engine:
        """One component's callable."""

    def predict(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """ControlNet and U-Net of a guided batch."""


@torch.inference_mode()
def sample(engines: Sampled, subject: Subject, *, steps: int) -> Tensor:
    """The latents [1,4,h,w], float32, of one subject at the size of its edges.

    Raises:
        EngineSetRefused: the schedule has no such number of steps.
    """
    dtype = engines.io_dtype
    latents = _noise(engines, subject)
    edges = torch.from_numpy(subject.edges).to(engines.device, dtype) / 255
    hint = edges.expand(1, 3, -1, -1).contiguous()
    constant = {
        "context": _context(engines, subject),
        "guided_hint": engines.engine("hint")({"hint": hint})["guided_hint"].repeat(2, 1, 1, 1),
        "control_scales": torch.ones(2, CONTROLS, device=engines.device, dtype=dtype),
    }
    scheduler = _scheduler(engines.noise_schedule, steps)
    for time in scheduler.timesteps:
        step = {
            "x_noisy": latents.to(dtype).repeat(2, 1, 1, 1),
            "timestep": torch.full((2,), float(time), device=engines.device, dtype=dtype),
        }
        predicted = engines.predict(constant | step)["latent"].float()
        unconditional, conditional = predicted.chunk(2)
        guided = unconditional + GUIDANCE * (conditional - unconditional)
        latents = scheduler.step(guided, time, latents).prev_sample
    return latents


def _noise(engines: Sampled, subject: Subject) -> Tensor:
    """Drawn on the CPU in float32: the same for every backend."""
    height, width = subject.edges.shape
    shape = (1, engines.geometry.latent_channels, height // 8, width // 8)
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(subject.seed)).to(engines.device)


def _context(engines: Sampled, subject: Subject) -> Tensor:
    """The negative prompt and the prompt, encoded: [2,77,C]."""
    from tokenizers import Tokenizer

    tokenizer, geometry = Tokenizer.from_file(str(engines.tokenizer_path)), engines.geometry
    tokenizer.no_truncation()
    tokenizer.no_padding()
    rows = []
    for text in (subject.negative, subject.prompt):
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
