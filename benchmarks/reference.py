"""diffusers' StableDiffusionControlNetPipeline, called as its documentation says: what the benchmarks compare with."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from jobs.job import RenderJob


class Diffusers:
    """One pipeline, which is called once a job or a batch of jobs, with the edge maps ready."""

    def __init__(self, model: Path, controlnet: Path, *, device: str = "cpu", compiled: bool = False) -> None:
        """float32 on a CPU, float16 on a GPU; `compiled` uses torch.compile with CUDA graphs, as its guide does."""
        dtype = torch.float32 if device == "cpu" else torch.float16
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._pipeline = _pipeline(model, controlnet, dtype).to(device)
        self._pipeline.set_progress_bar_config(disable=True)
        if compiled:
            for name in ("unet", "controlnet"):
                network = getattr(self._pipeline, name).to(memory_format=torch.channels_last)
                setattr(self._pipeline, name, torch.compile(network, mode="reduce-overhead", fullgraph=True))
        self._device, self._dtype = device, dtype

    def render(self, jobs: Sequence[RenderJob], *, batch: int = 1) -> tuple[float, list[np.ndarray]]:
        """Render the jobs, `batch` a call; returns the seconds, without making the edge maps, and the pictures.

        The steps, scales and strength of a call are those of its first job.
        """
        edges = [self._edges(job) for job in jobs]
        began = time.monotonic()
        pictures: list[np.ndarray] = []
        for first in range(0, len(jobs), batch):
            pictures += self._call(jobs[first : first + batch], edges[first : first + batch])
        return time.monotonic() - began, pictures

    def _call(self, jobs: Sequence[RenderJob], hints: Sequence[Image.Image]) -> list[np.ndarray]:
        parameters, hint = jobs[0].parameters, hints[0]
        shape = (1, 4, hint.height // 8, hint.width // 8)
        noise = torch.cat([torch.randn(shape, generator=torch.Generator("cpu").manual_seed(job.seed)) for job in jobs])
        done = self._pipeline(
            [f"{job.parameters.prompt}, {job.parameters.a_prompt}" for job in jobs],
            negative_prompt=[job.parameters.n_prompt for job in jobs],
            image=list(hints),
            num_inference_steps=parameters.ddim_steps,
            guidance_scale=parameters.scale,
            controlnet_conditioning_scale=parameters.strength,
            latents=noise.to(self._device, self._dtype),
        )
        return [np.asarray(picture) for picture in done.images]

    def _edges(self, job: RenderJob) -> Image.Image:
        side = job.parameters.image_resolution
        pixels = cv2.resize(np.asarray(Image.open(job.parameters.image)), (side, side), interpolation=cv2.INTER_AREA)
        return Image.fromarray(cv2.Canny(pixels, 100, 200)).convert("RGB")


def _pipeline(model: Path, controlnet: Path, dtype: torch.dtype) -> Any:
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()
    return diffusers.StableDiffusionControlNetPipeline.from_pretrained(
        model,
        controlnet=diffusers.ControlNetModel.from_pretrained(controlnet, torch_dtype=dtype),
        scheduler=diffusers.DDIMScheduler.from_pretrained(model / "scheduler"),
        safety_checker=None,
        torch_dtype=dtype,
    )
