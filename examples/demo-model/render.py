"""Pictures from weights, through diffusers: for the contact sheet, where no engine set was built."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from captions import NEGATIVE, SUFFIX
from data import canny
from diffusers import StableDiffusionControlNetPipeline
from diffusers.models import ControlNetModel


@dataclass(frozen=True)
class Request:
    """One picture to render; image uint8 RGB [H, W, 3], sides multiples of 64, is where the edges come from."""

    prompt: str
    image: np.ndarray = field(repr=False)
    seed: int = 0
    steps: int = 20
    scale: float = 9.0
    strength: float = 1.0
    eta: float = 0.0
    guess: bool = False

    def but(self, **changes: object) -> "Request":
        """The same with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


class Renderer(Protocol):
    """Whatever draws requests."""

    def render(self, requests: list[Request]) -> list[np.ndarray]:
        """uint8 RGB [H, W, 3] for each request, in order."""


class DiffusersRenderer:
    """diffusers' own pipeline on a folder with model/ and controlnet/."""

    def __init__(self, folder: Path, *, batch: int = 8) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        control = ControlNetModel.from_pretrained(folder / "controlnet").float()
        self.pipeline = StableDiffusionControlNetPipeline.from_pretrained(
            folder / "model", controlnet=control, safety_checker=None, feature_extractor=None
        ).to(device, torch.float32)
        self.pipeline.set_progress_bar_config(disable=True)
        self.batch = batch if device == "cpu" else 64

    @staticmethod
    def _key(request: Request) -> tuple[object, ...]:
        return (request.image.shape, request.steps, request.scale, request.strength, request.eta, request.guess)

    def render(self, requests: list[Request]) -> list[np.ndarray]:
        """uint8 RGB [H, W, 3] for each request, in order."""
        outputs: list[np.ndarray | None] = [None] * len(requests)
        for key in dict.fromkeys(self._key(r) for r in requests):
            alike = [i for i, r in enumerate(requests) if self._key(r) == key]
            for start in range(0, len(alike), self.batch):
                chosen = alike[start : start + self.batch]
                for i, image in zip(chosen, self._batch([requests[i] for i in chosen]), strict=True):
                    outputs[i] = image
        return [o for o in outputs if o is not None]

    @torch.no_grad()
    def _batch(self, requests: list[Request]) -> list[np.ndarray]:
        first = requests[0]
        hints = np.stack([canny(r.image) for r in requests]).astype(np.float32)[:, None].repeat(3, 1)
        images = self.pipeline(
            [f"{r.prompt}, {SUFFIX}" for r in requests],
            negative_prompt=[NEGATIVE] * len(requests),
            image=torch.from_numpy(hints),
            num_inference_steps=first.steps,
            guidance_scale=first.scale,
            controlnet_conditioning_scale=first.strength,
            eta=first.eta,
            guess_mode=first.guess,
            generator=[torch.Generator("cpu").manual_seed(r.seed) for r in requests],
            output_type="np",
        ).images
        return list(np.clip(images * 255 + 0.5, 0, 255).astype(np.uint8))
