"""A process's way from nothing to its first step, as a worker goes it: what `scripts/bench_gpu --only start` times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from engines.runtime import load_engine_set
from worker.denoiser import EngineDenoiser
from worker.loop import RenderLoop
from worker.slots import SampleRequest


def first_step(folder: Path, device: str) -> None:
    """Load the set, check its files, admit one sample of its first shape and take one step."""
    engines = load_engine_set(folder, device=device)
    profile = engines.manifest.profiles[0]
    ids = np.zeros(engines.geometry.context_length, np.int64)
    request = SampleRequest(
        job_id="first",
        sample=0,
        edges=np.zeros((profile.max_height, profile.max_width), np.uint8),
        cond_ids=ids,
        uncond_ids=ids,
        seed=0,
        steps=20,
        eta=0.0,
        scale=9.0,
        cond_control_scales=(1.0,) * 13,
        uncond_control_scales=(1.0,) * 13,
    )
    loop = RenderLoop(EngineDenoiser(engines))
    loop.submit(request)
    loop.step()
    if engines.device.type == "cuda":
        torch.cuda.synchronize()
