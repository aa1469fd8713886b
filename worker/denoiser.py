"""The only door to the engines: what the loop asks of a GPU, in tensors. And the fake that stands in for one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from einops import rearrange

from engines.runtime import EngineSet
from worker import ddim
from worker.slots import StepBatch


class DeviceOutOfMemory(Exception):
    """The device's memory did not suffice for this call; a smaller one may fit."""


class DeviceLost(Exception):
    """The device does not work any more in this process: only a new process helps."""


class Denoiser(Protocol):
    """Called by one thread only. Raises DeviceOutOfMemory or DeviceLost; anything else is this batch's own trouble."""

    def max_batch(self, height: int, width: int) -> int:
        """How many samples one step takes at this size, in pixels. Any thread may ask."""

    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        """int64 [N, 77] -> float [N, 77, width]."""

    def encode_hint(self, edges: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W], 0 or 255 -> float [N, C, h, w]."""

    def step(self, batch: StepBatch) -> torch.Tensor:
        """One DDIM step of N samples: the next latents, float32 [N, 4, h, w]."""

    def decode(self, latents: torch.Tensor) -> list[np.ndarray | None]:
        """float32 [N, 4, h, w] -> N pictures, RGB uint8 [H, W, 3], or None where values are not numbers."""


class EngineDenoiser:
    """The engines of a set. `low_vram` keeps diffusion engines and text/decoder engines from sharing the device."""

    DIFFUSION = ("hint", "controlnet", "unet")
    TEXT_AND_DECODER = ("clip", "decoder")

    def __init__(self, engines: EngineSet, *, max_batch: int | None = None, low_vram: bool = False) -> None:
        self._engines = engines
        self._max_batch = engines.max_batch if max_batch is None else min(max_batch, engines.max_batch)
        self._low_vram = low_vram
        self._resident: tuple[str, ...] = ()
        if not low_vram:
            engines.load((*self.DIFFUSION, *self.TEXT_AND_DECODER))

    def max_batch(self, height: int, width: int) -> int:  # noqa: ARG002 (a set has one limit for all its shapes)
        """The engine set's limit, or RENDER_MAX_BATCH."""
        return self._max_batch

    @torch.inference_mode()
    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        """int64 [N, 77] -> float [N, 77, width]."""
        with self._using(self.TEXT_AND_DECODER):
            clip = self._engines.engine("clip")
            parts = [
                clip({"input_ids": part.to(self._engines.device)})["last_hidden_state"]
                for part in torch.split(torch.from_numpy(ids), self._engines.max_batch)
            ]
        return torch.cat(parts)

    @torch.inference_mode()
    def encode_hint(self, edges: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W], 0 or 255 -> float [N, C, h, w]."""
        with self._using(self.DIFFUSION):
            hint = torch.from_numpy(edges).to(self._engines.device).to(self._engines.io_dtype) / 255
            three = hint.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
            encode = self._engines.engine("hint")
            return torch.cat(
                [encode({"hint": part})["guided_hint"] for part in torch.split(three, self._engines.max_batch)]
            )

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> torch.Tensor:
        """Control net, U-Net, guidance, DDIM."""
        with self._using(self.DIFFUSION):
            dtype = self._engines.io_dtype
            inputs = {
                "x_noisy": batch.latents.to(dtype).repeat(2, 1, 1, 1),
                "timestep": batch.timestep.to(dtype).repeat(2),
                "context": batch.context,
            }
            controls = self._engines.engine("controlnet")(
                inputs | {"guided_hint": batch.guided_hint, "control_scales": batch.control_scales}
            )
            predicted = self._engines.engine("unet")(inputs | controls)["latent"]
            guided = ddim.guide(predicted.float(), batch.guidance)
            return ddim.step(batch.latents, guided, coefficients=batch.coefficients, noise=batch.noise)

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> list[np.ndarray | None]:
        """float32 [N, 4, h, w] -> N pictures, RGB uint8 [H, W, 3], or None where values are not numbers."""
        with self._using(self.TEXT_AND_DECODER):
            scaled = (latents / self._engines.geometry.scaling_factor).to(self._engines.io_dtype)
            decode = self._engines.engine("decoder")
            images = torch.cat(
                [decode({"latent": part})["image"] for part in torch.split(scaled, self._engines.max_batch)]
            )
            return _pictures(images)

    @contextmanager
    def _using(self, names: tuple[str, ...]) -> Iterator[None]:
        """Make engines resident, and turn the device's errors into ours."""
        try:
            if self._low_vram and self._resident != names:
                self._swap_in(names)
            yield
        except (RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                if self._engines.device.type == "cuda":
                    torch.cuda.empty_cache()
                raise DeviceOutOfMemory(str(error)) from error
            if is_lost(error):
                raise DeviceLost(str(error)) from error
            raise

    def _swap_in(self, names: tuple[str, ...]) -> None:
        self._engines.unload(set(self.DIFFUSION + self.TEXT_AND_DECODER).difference(names))
        self._resident = ()  # until all are loaded: a load that fails half-way is done again
        self._engines.load(names)
        self._resident = names


def is_out_of_memory(error: Exception) -> bool:
    """Whether less work at once might have gone well; torch, CUDA, cuBLAS and the CPU say it differently."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    text = str(error).lower()
    return any(sign in text for sign in ("out of memory", "can't allocate memory", "cublas_status_alloc_failed"))


def is_lost(error: Exception) -> bool:
    """Whether an error leaves the CUDA context unusable: every later call of this process would fail too."""
    if type(error).__name__ == "AcceleratorError":  # torch 2.8 and later
        return True
    signs = ("CUDA error", "CUBLAS_STATUS_EXECUTION_FAILED", "CUBLAS_STATUS_INTERNAL_ERROR", "CUDNN_STATUS_EXECUTION")
    return any(sign in str(error) for sign in signs)


def _pictures(images: torch.Tensor) -> list[np.ndarray | None]:
    """float [N, 3, H, W], about -1..1 -> uint8 [H, W, 3] each; None where a value is not finite."""
    finite = torch.isfinite(images).flatten(1).all(dim=1).tolist()
    # Rounded as diffusers does; canny2image truncates, which darkens by half a level.
    pixels = (images.float() * 127.5 + 127.5).round().clamp(0, 255).to(torch.uint8)
    array: np.ndarray = rearrange(pixels, "n c h w -> n h w c").contiguous().cpu().numpy()
    return [picture if ok else None for picture, ok in zip(array, finite, strict=True)]


class FakeDenoiser:
    """No networks: pulls latents towards what `predict` says, on the CPU, and takes `seconds(N)` a step.

    Pictures depend on seed, steps and hint as real ones do, and not on the batch they were made in.
    """

    def __init__(
        self,
        predict: Callable[[StepBatch], torch.Tensor] | None = None,
        *,
        max_batch: int = 8,
        seconds: Callable[[int], float] = lambda _: 0.0,
    ) -> None:
        self._predict = predict or _towards_the_hint
        self._limit = max_batch
        self._seconds = seconds

    def max_batch(self, height: int, width: int) -> int:  # noqa: ARG002 (the same for all)
        """The limit given."""
        return self._limit

    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        """Token ids as numbers, float32 [N, 77, 1]."""
        return torch.from_numpy(ids).float().unsqueeze(-1)

    def encode_hint(self, edges: np.ndarray) -> torch.Tensor:
        """Edges averaged over each latent cell, float32 [N, 1, h, w]."""
        return torch.nn.functional.avg_pool2d(torch.from_numpy(edges).float().unsqueeze(1) / 255, 8)

    def step(self, batch: StepBatch) -> torch.Tensor:
        """A real DDIM step on a made-up prediction."""
        time.sleep(self._seconds(batch.size))
        return ddim.step(batch.latents, self._predict(batch), coefficients=batch.coefficients, noise=batch.noise)

    def decode(self, latents: torch.Tensor) -> list[np.ndarray | None]:
        """The first three channels, enlarged."""
        return _pictures(torch.nn.functional.interpolate(latents[:, :3] / 3, scale_factor=8))


def _towards_the_hint(batch: StepBatch) -> torch.Tensor:
    hint = batch.guided_hint[batch.size :].float()
    return 0.1 * batch.latents + hint * 0.01 * batch.guidance.view(-1, 1, 1, 1)
