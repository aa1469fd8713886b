"""Time a new process up to its first step, as a worker starts: for `benchmarks.gpu --only start`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from engines.file_check import FileCheck
from engines.spec import CONTROLS

if TYPE_CHECKING:
    from engines.engine_set import EngineSet
    from worker.render.request import ImageSpec


def first_step(folder: Path, device: str, began: float) -> dict[str, float]:
    """Check the set's files, load it, admit one sample of its first shape, and take one step; seconds of each part.

    The files are hashed while torch is imported, as in a worker; "check" is the time that hashing takes after that.
    `began` is when the process was started, by time.monotonic, which all processes share.
    """
    check = FileCheck.of(folder)
    import torch

    from engines.engine_set import load_engine_set
    from worker.render.denoiser import EngineDenoiser
    from worker.render.loop import RenderLoop

    marks = [began, time.monotonic()]
    engines = load_engine_set(folder, device=device, check=check)
    marks.append(time.monotonic())
    sample = _sample(engines)
    loop = RenderLoop(EngineDenoiser(engines))
    marks.append(time.monotonic())
    loop.submit(sample)
    loop.step()
    if engines.device.type == "cuda":
        torch.cuda.synchronize()
    marks.append(time.monotonic())
    parts = ("imports", "check", "load", "first_step")
    return {name: round(late - early, 2) for name, early, late in zip(parts, marks, marks[1:], strict=False)}


def _sample(engines: EngineSet) -> ImageSpec:
    """One sample of the set's first shape, without edges or words."""
    import numpy as np

    from worker.render.request import ImageSpec

    profile = engines.manifest.profiles[0]
    ids = np.zeros(engines.geometry.context_length, np.int64)
    return ImageSpec(
        job_id="first",
        sample=0,
        edges=np.zeros((profile.max_height, profile.max_width), np.uint8),
        cond_ids=ids,
        uncond_ids=ids,
        seed=0,
        steps=20,
        eta=0.0,
        scale=9.0,
        cond_control_scales=(1.0,) * CONTROLS,
        uncond_control_scales=(1.0,) * CONTROLS,
    )
