"""The only door to the engines: what the loop asks of a GPU, in tensors. And the fake that stands in for one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch

from engines.cuda_graph import Graphed
from engines.engine_set import EngineSet
from worker.render import ddim
from worker.render.decoding import Decoding
from worker.render.device import Pace, to_device, translated_errors
from worker.render.request import StepBatch


class Denoiser(Protocol):
    """Called by one thread only. Raises DeviceOutOfMemory or DeviceLost; anything else is this batch's own trouble."""

    def max_batch(self, height: int, width: int) -> int:
        """How many samples one step takes at this size, in pixels. Any thread may ask."""

    def batch_size(self, samples: int, height: int, width: int) -> int:
        """The samples that a step of so many is padded to; more of them where engines have fixed sizes."""

    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        """int64 [N, 77] -> float [N, 77, width]."""

    def encode_hint(self, edges: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W], 0 or 255 -> float [N, C, h, w]."""

    def step(self, batch: StepBatch) -> torch.Tensor:
        """One DDIM step of N samples: the next latents, float32 [N, 4, h, w]."""

    def decode(self, latents: torch.Tensor) -> Decoding:
        """float32 [N, 4, h, w] -> N pictures, which may still be under way."""


class EngineDenoiser:
    """The engines of a set. `low_vram` keeps diffusion engines and text/decoder engines from sharing the device."""

    DIFFUSION = ("hint", "controlnet", "unet")
    TEXT_AND_DECODER = ("clip", "decoder")

    def __init__(self, engines: EngineSet, *, max_batch: int | None = None, low_vram: bool = False) -> None:
        self._engines = engines
        self._max_batch = engines.max_batch if max_batch is None else min(max_batch, engines.max_batch)
        self._low_vram = low_vram
        self._resident: tuple[str, ...] = ()
        # On a GPU control net, U-Net, guidance and DDIM are one launch.
        self._step = Graphed(self._one_step, engines.device)
        self._pace = Pace(engines.device)
        if not low_vram:
            engines.load((*self.DIFFUSION, *self.TEXT_AND_DECODER))

    def max_batch(self, height: int, width: int) -> int:  # noqa: ARG002 (a set has one limit for all its shapes)
        """The engine set's limit, or RENDER_MAX_BATCH."""
        return self._max_batch

    def batch_size(self, samples: int, height: int, width: int) -> int:
        """As the engines were built."""
        return self._engines.batch_size(samples, height, width)

    @torch.inference_mode()
    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        """int64 [N, 77] -> float [N, 77, width]."""
        with self._using(self.TEXT_AND_DECODER):
            clip = self._engines.engine("clip")
            parts = [
                clip({"input_ids": part})["last_hidden_state"]
                for part in torch.split(to_device(ids, self._engines.device), self._engines.max_batch)
            ]
        return torch.cat(parts)

    @torch.inference_mode()
    def encode_hint(self, edges: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W], 0 or 255 -> float [N, C, h, w]."""
        with self._using(self.DIFFUSION):
            hint = to_device(edges, self._engines.device).to(self._engines.io_dtype) / 255
            three = hint.unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
            encode = self._engines.engine("hint")
            return torch.cat(
                [encode({"hint": part})["guided_hint"] for part in torch.split(three, self._engines.max_batch)]
            )

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> torch.Tensor:
        """Control net, U-Net, guidance, DDIM."""
        with self._using(self.DIFFUSION):
            latents = self._step(batch.tensors())["latents"]
            self._pace.keep()
            return latents

    def _one_step(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """StepBatch's tensors in, the next latents out; never waits for the device."""
        dtype = self._engines.io_dtype
        inputs = {
            "x_noisy": batch["latents"].to(dtype).repeat(2, 1, 1, 1),
            "timestep": batch["timestep"].to(dtype).repeat(2),
            "context": batch["context"],
        }
        control = {name: batch[name] for name in ("guided_hint", "control_scales")}
        predicted = self._engines.predict(inputs | control)["latent"]
        guided = ddim.guide(predicted.float(), batch["guidance"])
        noise = batch.get("noise")
        return {"latents": ddim.step(batch["latents"], guided, coefficients=batch["coefficients"], noise=noise)}

    @torch.inference_mode()
    def decode(self, latents: torch.Tensor) -> Decoding:
        """float32 [N, 4, h, w] -> N pictures, which may still be under way."""
        with self._using(self.TEXT_AND_DECODER):
            scaled = (latents / self._engines.geometry.scaling_factor).to(self._engines.io_dtype)
            decode = self._engines.engine("decoder")
            images = torch.cat(
                [decode({"latent": part})["image"] for part in torch.split(scaled, self._engines.max_batch)]
            )
            return Decoding(images)

    @contextmanager
    def _using(self, names: tuple[str, ...]) -> Iterator[None]:
        """Make engines resident, and turn the device's errors into ours."""
        with translated_errors():
            if self._low_vram and self._resident != names:
                self._swap_in(names)
            yield

    def _swap_in(self, names: tuple[str, ...]) -> None:
        if self._engines.device.type == "cuda":
            torch.cuda.synchronize(self._engines.device)  # what is queued still reads the weights
        self._step.clear()
        self._engines.unload(set(self.DIFFUSION + self.TEXT_AND_DECODER).difference(names))
        self._resident = ()  # until all are loaded: a load that fails half-way is done again
        self._engines.load(names)
        self._resident = names


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

    def batch_size(self, samples: int, height: int, width: int) -> int:  # noqa: ARG002 (any size will do)
        """No padding."""
        return samples

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

    def decode(self, latents: torch.Tensor) -> Decoding:
        """The first three channels, enlarged."""
        return Decoding(torch.nn.functional.interpolate(latents[:, :3] / 3, scale_factor=8))


def _towards_the_hint(batch: StepBatch) -> torch.Tensor:
    hint = batch.guided_hint[batch.size :].float()
    return 0.1 * batch.latents + hint * 0.01 * batch.guidance.view(-1, 1, 1, 1)
