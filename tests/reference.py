"""Render rows of a CSV with diffusers' own pipeline and scheduler. Nothing of ours is imported here.

from tests.reference import Reference
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

A_PROMPT = "best quality, extremely detailed"
N_PROMPT = "longbody, lowres, bad anatomy, bad hands, missing fingers"


class Reference:
    """StableDiffusionControlNetPipeline with DDIMScheduler in float32; one call a sample."""

    def __init__(self, weights: Path) -> None:
        """`weights` holds model/ and controlnet/ in diffusers layout."""
        self._pipeline = _pipeline(weights)
        self._clip_skip: int | None = None

    def add_loras(self, *loras: tuple[Path, float]) -> None:
        """Load LoRAs, each with its weight. Needs peft."""
        names = [f"lora{i}" for i in range(len(loras))]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # peft's, of a second adapter
            for (path, _), name in zip(loras, names, strict=True):
                self._pipeline.load_lora_weights(path.parent, weight_name=path.name, adapter_name=name)
        self._pipeline.set_adapters(names, [weight for _, weight in loras])

    def add_embedding(self, path: Path, word: str) -> None:
        """Load a textual inversion for a word."""
        self._pipeline.load_textual_inversion(path.parent, weight_name=path.name, token=word)

    def take_vae(self, folder: Path) -> None:
        """Decode with another VAE from now on."""
        import diffusers

        self._pipeline.vae = diffusers.AutoencoderKL.from_pretrained(folder)

    def skip_layers(self, count: int) -> None:
        """Take prompts from an earlier layer, so many before the last one."""
        self._clip_skip = count
        encoder = self._pipeline.text_encoder
        if not hasattr(encoder, "text_model"):  # transformers 5 has a level less than this diffusers looks for
            object.__setattr__(encoder, "text_model", encoder)

    def schedule_from(self, folder: Path) -> None:
        """Take the scheduler_config.json of a folder from now on."""
        import diffusers

        self._pipeline.scheduler = diffusers.DDIMScheduler.from_pretrained(folder)

    def render(self, picture: Path, row: Mapping[str, str]) -> list[np.ndarray]:
        """One uint8 [H, W, 3] a sample. `row` holds texts as in the CSV; an empty one stands for the default."""
        hint = _hint(picture, row)
        return [self._sample(hint, row, sample) for sample in range(int(row.get("num_samples") or 1))]

    def render_encoded(
        self, edges: np.ndarray, prompt: torch.Tensor, negative: torch.Tensor, *, seed: int, steps: int, scale: float
    ) -> np.ndarray:
        """One uint8 [H, W, 3] for edges, uint8 [H, W], and prompts that are encoded, [tokens, width]."""
        height, width = edges.shape
        generator = torch.Generator("cpu").manual_seed(seed)
        done = self._pipeline(
            prompt_embeds=prompt[None],
            negative_prompt_embeds=negative[None],
            image=Image.fromarray(np.stack([edges] * 3, axis=2)),
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=scale,
            latents=torch.randn((1, 4, height // 8, width // 8), generator=generator),
        )
        return np.asarray(done.images[0])

    def _sample(self, hint: np.ndarray, row: Mapping[str, str], sample: int) -> np.ndarray:
        height, width = hint.shape[:2]
        guess = row.get("guess_mode") == "true"
        generator = torch.Generator("cpu").manual_seed(int(row["seed"]) + sample)
        latents = torch.randn(
            (1, 4, height // 8, width // 8), generator=generator
        )  # eta draws from the same generator afterwards
        done = self._pipeline(
            f"{row['prompt']}, {row.get('a_prompt') or A_PROMPT}",
            **self._negative(row.get("n_prompt") or N_PROMPT),
            image=Image.fromarray(hint),
            height=height,
            width=width,
            num_inference_steps=int(row.get("ddim_steps") or 20),
            guidance_scale=float(row.get("scale") or 9.0),
            eta=float(row.get("eta") or 0.0),
            controlnet_conditioning_scale=float(row.get("strength") or 1.0),
            guess_mode=guess,
            latents=latents,
            generator=generator,
            clip_skip=self._clip_skip,
        )
        return np.asarray(done.images[0])

    def _negative(self, prompt: str) -> dict[str, Any]:
        """The negative prompt, from the prompt's layer: diffusers' pipeline takes it from the last one."""
        if self._clip_skip is None:
            return {"negative_prompt": prompt}
        embeds, _ = self._pipeline.encode_prompt(prompt, "cpu", 1, False, clip_skip=self._clip_skip)
        return {"negative_prompt_embeds": embeds}


def _pipeline(weights: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the libraries' remarks on each other
        import diffusers
        import transformers

        diffusers.utils.logging.disable_progress_bar()
        diffusers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        pipeline = diffusers.StableDiffusionControlNetPipeline.from_pretrained(
            weights / "model",
            controlnet=diffusers.ControlNetModel.from_pretrained(weights / "controlnet"),
            scheduler=diffusers.DDIMScheduler.from_pretrained(weights / "model" / "scheduler"),
            safety_checker=None,
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.controlnet.forward = _with_lineage_scales(pipeline.controlnet.forward)
    return pipeline


def _with_lineage_scales(forward: Any) -> Any:
    """diffusers' guess mode spaces its scales by logspace(-1, 0); ControlNet's own are 0.825 ** (12 - i).

    The rest of guess mode stays diffusers': the ControlNet sees the conditional half, the other gets zeros.
    """

    def scaled(*inputs: Any, conditioning_scale: float, guess_mode: bool, return_dict: bool, **named: Any) -> Any:
        if not guess_mode:
            return forward(*inputs, conditioning_scale=conditioning_scale, return_dict=return_dict, **named)
        down, middle = forward(*inputs, conditioning_scale=1.0, return_dict=False, **named)
        controls = [*down, middle]
        assert len(controls) == 13
        controls = [control * conditioning_scale * 0.825 ** (12 - i) for i, control in enumerate(controls)]
        return controls[:-1], controls[-1]

    return scaled


def _hint(path: Path, row: Mapping[str, str]) -> np.ndarray:
    """uint8 [H, W, 3]: the picture, or `control_image` beside it, at the picture's size; or the edges of that."""
    pixels = _over_white(path)
    factor = int(row.get("image_resolution") or 512) / min(pixels.shape[:2])
    height, width = (int(np.round(side * factor / 64)) * 64 for side in pixels.shape[:2])
    if row.get("control_image"):
        pixels = _over_white(path.with_name(row["control_image"]))
    method = cv2.INTER_LANCZOS4 if min(height, width) > min(pixels.shape[:2]) else cv2.INTER_AREA
    resized = cv2.resize(pixels, (width, height), interpolation=method)
    if row.get("control") == "none":
        return np.asarray(resized)
    edges = cv2.Canny(resized, int(row.get("low_threshold") or 100), int(row.get("high_threshold") or 200))
    return np.stack([edges] * 3, axis=2)


def _over_white(path: Path) -> np.ndarray:
    """uint8 [H, W, 3]."""
    with Image.open(path) as image:
        pixels = np.asarray(image)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.shape[2] == 4:
        alpha = pixels[:, :, 3:].astype(np.float32) / 255
        pixels = (pixels[:, :, :3].astype(np.float32) * alpha + 255 * (1 - alpha)).clip(0, 255).astype(np.uint8)
    return pixels
