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
    """One pipeline, which is called once a job with the edge map ready."""

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

    def render(self, jobs: Sequence[RenderJob]) -> tuple[float, list[np.ndarray]]:
        """Render the jobs one by one; returns the seconds, without making the edge maps, and the pictures."""
        edges = [self._edges(job) for job in jobs]
        began = time.monotonic()
        pictures = [self._call(job, hint) for job, hint in zip(jobs, edges, strict=True)]
        return time.monotonic() - began, pictures

    def _call(self, job: RenderJob, hint: Image.Image) -> np.ndarray:
        parameters = job.parameters
        noise = torch.randn(
            (1, 4, hint.height // 8, hint.width // 8), generator=torch.Generator("cpu").manual_seed(job.seed)
        )
        done = self._pipeline(
            f"{parameters.prompt}, {parameters.a_prompt}",
            negative_prompt=parameters.n_prompt,
            image=hint,
            num_inference_steps=parameters.ddim_steps,
            guidance_scale=parameters.scale,
            controlnet_conditioning_scale=parameters.strength,
            latents=noise.to(self._device, self._dtype),
        )
        return np.asarray(done.images[0])

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
