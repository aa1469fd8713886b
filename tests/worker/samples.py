"""Samples for tests of the loop: specs, and running requests whose conditioning shows which request it belongs to."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from engines.noise_schedule import SD15
from engines.spec import CONTROLS
from worker.render import ddim
from worker.render.request import ImageRequest, ImageSpec
from worker.render.trajectory import Conditioning, Trajectory


def sample_spec(number: int = 0, *, steps: int = 3, size: tuple[int, int] = (64, 64), **values: Any) -> ImageSpec:
    """A spec whose edges, prompt and seed follow from its number; values override."""
    edges = np.zeros(size, np.uint8)
    edges[number % size[0], :] = 255
    fields: dict[str, Any] = {
        "job_id": str(number),
        "sample": 0,
        "edges": edges,
        "cond_ids": np.full(77, 100 + number, np.int64),
        "uncond_ids": np.full(77, 7, np.int64),
        "seed": number,
        "steps": steps,
        "eta": 0.0,
        "scale": 7.0,
        "cond_control_scales": (1.0,) * CONTROLS,
        "uncond_control_scales": (1.0,) * CONTROLS,
    }
    return ImageSpec(**(fields | values))


def running_request(number: int = 0, **values: Any) -> ImageRequest:
    """A request whose conditioning holds its number: the hint 100 + number, the texts -number and +number."""
    context = torch.stack([torch.full((77, 4), -float(number)), torch.full((77, 4), float(number))])
    scales = torch.stack([torch.full((CONTROLS,), 10.0 + number), torch.full((CONTROLS,), 20.0 + number)])
    conditioning = Conditioning(torch.full((8, 8, 8), 100.0 + number), context, scales)
    return started(sample_spec(number, **values), conditioning)


def started(spec: ImageSpec, conditioning: Conditioning) -> ImageRequest:
    """A request that the loop has started with this conditioning."""
    request = ImageRequest(spec)
    schedule = ddim.schedule(SD15, spec.steps, spec.eta)
    request.start(Trajectory(conditioning, schedule, seed=spec.seed, eta=spec.eta))
    return request
