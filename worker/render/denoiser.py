"""Denoiser: what the loop asks of a GPU, in tensors. EngineDenoiser is the only code in the loop that calls engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
import torch

from engines.cuda_graph import Graphed, GraphPool
from engines.engine_set import EngineSet
from engines.noise_schedule import NoiseSchedule
from worker.render import ddim
from worker.render.batch import StepBatch, blank_batch, padded
from worker.render.decoding import Decoding
from worker.render.device import Pace, is_out_of_memory, to_device, translated_errors
from worker.render.known_sizes import KnownSizes
from worker.render.request import BucketKey


class Denoiser(Protocol):
    """Called by one thread only. Raises DeviceOutOfMemory or DeviceLost; any other error concerns this call alone."""

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The model's: it gives the timesteps and the coefficients of every step."""

    def max_batch(self, height: int, width: int) -> int:
        """How many samples one step takes at this size in pixels. Any thread may call this."""

    def batch_size(self, samples: int, height: int, width: int) -> int:
        """The size that a step of so many samples is padded to: larger where engines have fixed batch sizes."""

    def graph_sizes(self, key: BucketKey) -> tuple[int, ...]:
        """The batch sizes, ascending, that a bucket's step can have, where a new one costs much.

        An empty tuple: a new batch size costs nothing, so a step has the size that `batch_size` says.
        """

    def graphs(self, key: BucketKey) -> frozenset[int]:
        """The sizes among `graph_sizes` at which a step costs nothing extra now."""

    def warm(self, key: BucketKey, size: int) -> None:
        """Do all that a bucket's first step of this batch size costs extra, and that of its first pictures.

        Where memory does not suffice for the pictures, the step's part is done nevertheless: `graphs` says so.
        """

    def drop_graphs(self) -> bool:
        """Free what all sizes together keep in memory; steps do anew what they cost extra. False if it kept nothing."""

    def encode_text(self, ids: np.ndarray) -> torch.Tensor:
        """int64 [N, 77] -> float [N, 77, width]."""

    def encode_hint(self, hints: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W], edges of 0 or 255, or [N, H, W, 3], pictures in RGB -> float [N, C, h, w]."""

    def step(self, batch: StepBatch) -> torch.Tensor:
        """One DDIM step of N samples: the next latents, float32 [N, 4, h, w]."""

    def decode(self, latents: torch.Tensor) -> Decoding:
        """float32 [N, 4, h, w] -> N pictures, whose copy to the host may still be running."""

    def load(self) -> None:
        """Bring what it needs to the device, after `unload`. Raises whatever prevents that."""

    def unload(self) -> None:
        """Free all that it has on the device, once the device has done its work."""

    @property
    def reload_seconds(self) -> float:
        """How long loading took the last time, all that has to be done anew after it included."""


class SharedDevice:
    """What the engine sets on one device share: the pace of their steps, and the memory of their CUDA graphs."""

    def __init__(self, device: torch.device) -> None:
        self.pace = Pace(device)
        self.graph_pool = GraphPool()


class EngineDenoiser:
    """The engines of a set. With `low_vram`, diffusion engines and text/decoder engines are never loaded together."""

    DIFFUSION = ("hint", "controlnet", "unet")
    TEXT_AND_DECODER = ("clip", "decoder")

    def __init__(
        self,
        engines: EngineSet,
        *,
        max_batch: int | None = None,
        low_vram: bool = False,
        shared: SharedDevice | None = None,
        lazy: bool = False,
    ) -> None:
        """`shared`: with other sets on the same device. `lazy`: nothing is loaded until `load` is called."""
        self._engines = engines
        self._max_batch = engines.max_batch if max_batch is None else min(max_batch, engines.max_batch)
        self._low_vram = low_vram
        self._resident: tuple[str, ...] = ()
        shared = SharedDevice(engines.device) if shared is None else shared
        # On a GPU, control net, U-Net, guidance and DDIM are one CUDA graph, and so one launch.
        self._pool = shared.graph_pool
        self._step = Graphed(self._one_step, engines.device, self._pool)
        self._no_noise: dict[torch.Size, torch.Tensor] = {}  # zeros
        self._sizes: dict[BucketKey, tuple[int, ...]] = {}
        self._known = KnownSizes()  # of hints and pictures, which have no graphs
        self._pace = shared.pace
        self._load_seconds: dict[tuple[str, ...], float] = {}  # by the names of engines that were loaded together
        if not lazy:
            self.load()

    def load(self) -> None:
        """Open all engines; with low_vram, those of each kind are opened when they are first used.

        Raises:
            EngineSetRefused: the backend does not take a file, or finds other tensors in it.
        """
        if not self._low_vram:
            self._open((*self.DIFFUSION, *self.TEXT_AND_DECODER))

    def unload(self) -> None:
        """Drop all engines and graphs."""
        self._drop(self.DIFFUSION + self.TEXT_AND_DECODER)

    @property
    def reload_seconds(self) -> float:
        """Seconds to open all engines, and to capture the graphs that steps have needed since."""
        return sum(self._load_seconds.values()) + self._step.capture_seconds

    @property
    def noise_schedule(self) -> NoiseSchedule:
        """The noise schedule of the engine set."""
        return self._engines.noise_schedule

    def max_batch(self, height: int, width: int) -> int:  # noqa: ARG002 (a set has one limit for all its shapes)
        """The engine set's limit, or RENDER_MAX_BATCH."""
        return self._max_batch

    def batch_size(self, samples: int, height: int, width: int) -> int:
        """The next larger batch size that the engines were built for."""
        return self._engines.batch_size(samples, height, width)

    @property
    def sizes_cost(self) -> bool:
        """Whether the first call of each size costs much: on a GPU, where kernels are chosen and graphs captured."""
        return self._engines.device.type == "cuda"

    def graph_sizes(self, key: BucketKey) -> tuple[int, ...]:
        """Every batch size that the engines have. None with low_vram, which drops graphs whenever engines change."""
        if not self.sizes_cost or self._low_vram:
            return ()
        if key not in self._sizes:
            samples = range(1, self._max_batch + 1) if self._draws(key) else ()
            self._sizes[key] = tuple(sorted({self.batch_size(n, key.height, key.width) for n in samples}))
        return self._sizes[key]

    def _draws(self, key: BucketKey) -> bool:
        chunks, rest = divmod(key.tokens, self._engines.geometry.context_length)
        most = self._engines.manifest.context_chunks_at(key.height, key.width)
        return rest == 0 and 1 <= chunks <= most

    def graphs(self, key: BucketKey) -> frozenset[int]:
        """The batch sizes of the graphs that were captured since the engines were loaded."""
        bucket = (key.height // 8, key.width // 8, key.tokens)
        return frozenset(
            shapes["latents"][0]
            for shapes in self._step.shapes
            if (*shapes["latents"][2:], shapes["context"][1]) == bucket
        )

    def warm(self, key: BucketKey, size: int) -> None:
        """Take a step with nothing in it, and decode its pictures."""
        hint = self.encode_hint(np.zeros((1, key.height, key.width), np.uint8))
        text = self.encode_text(np.zeros((1, self._engines.geometry.context_length), np.int64))
        before = self._step.capture_seconds
        try:
            latents = self.step(blank_batch(hint, text, size=size, tokens=key.tokens))
        finally:
            self._pool.take_loss()  # the next call that runs out of memory gains nothing from it
        self._step.capture_seconds = before  # no step has waited for it
        self.decode(latents).pictures()

    def drop_graphs(self) -> bool:
        """Once the device has done its work. The engines stay. Memory is free once no set of the pool has a graph.

        Graphs that a failed capture has dropped count as dropped now: they made as much room.
        """
        had_some = bool(self._step.shapes)
        with translated_errors():
            self._clear()
            if self._engines.device.type == "cuda":
                torch.cuda.empty_cache()
        return self._pool.take_loss() or had_some

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
    def encode_hint(self, hints: np.ndarray) -> torch.Tensor:
        """uint8 [N, H, W], edges of 0 or 255, or [N, H, W, 3], pictures in RGB -> float [N, C, h, w]."""
        with self._using(self.DIFFUSION):
            hint = to_device(hints, self._engines.device).to(self._engines.io_dtype) / 255
            channels = hint.permute(0, 3, 1, 2) if hint.ndim == 4 else hint.unsqueeze(1).expand(-1, 3, -1, -1)
            encode = self._engines.engine("hint")
            return self._in_parts("hint", channels.contiguous(), lambda part: encode({"hint": part})["guided_hint"])

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> torch.Tensor:
        """Control net, U-Net, guidance, DDIM. Returns when the step before this one has ended on the device."""
        with self._using(self.DIFFUSION):
            tensors = batch.tensors()
            if self.sizes_cost and batch.noise is None:  # so that steps with and without noise share a graph
                tensors["noise"] = self._zeros_like(batch.latents)
            latents = self._step(tensors)["latents"]
            self._pace.keep()
            return latents

    def _one_step(self, batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """StepBatch.tensors() -> the next latents. Never waits for the device: it is captured as a graph."""
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
        """float32 [N, 4, h, w] -> N pictures, whose copy to the host may still be running."""
        with self._using(self.TEXT_AND_DECODER):
            scaled = (latents / self._engines.geometry.scaling_factor).to(self._engines.io_dtype)
            decode = self._engines.engine("decoder")
            return Decoding(self._in_parts("decode", scaled, lambda part: decode({"latent": part})["image"]))

    def _zeros_like(self, latents: torch.Tensor) -> torch.Tensor:
        """The same tensor each time, which a graph need not copy again."""
        if latents.shape not in self._no_noise:
            self._no_noise[latents.shape] = torch.zeros_like(latents)
        return self._no_noise[latents.shape]

    def _in_parts(self, name: str, rows: torch.Tensor, call: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """The outputs of a call for rows, in batches that the engines take, and of known sizes where that pays."""
        batches = torch.split(rows, self._engines.max_batch)
        if not self.sizes_cost:
            return torch.cat([call(part) for part in batches])
        return torch.cat([self._at_known_sizes((name, rows.shape[1:]), part, call) for part in batches])

    def _at_known_sizes(
        self, kind: tuple[str, torch.Size], rows: torch.Tensor, call: Callable[[torch.Tensor], torch.Tensor]
    ) -> torch.Tensor:
        sizes = self._known.parts(kind, len(rows))
        parts = torch.split(rows, [*sizes[:-1], len(rows) - sum(sizes[:-1])])
        try:
            outputs = torch.cat([call(padded(part, to=size)) for part, size in zip(parts, sizes, strict=True)])
        except (RuntimeError, MemoryError) as error:
            if sizes == [len(rows)] or not is_out_of_memory(error):
                raise
            self._known.forget(kind)  # the rows alone may fit, and must not fail for the padding
        else:
            for size in sizes:
                self._known.ran(kind, size)
            return outputs[: len(rows)]
        return self._at_known_sizes(kind, rows, call)

    def _using(self, names: tuple[str, ...]) -> AbstractContextManager[None]:
        """Load these engines if need be; the device's errors are translated here and in the block."""
        translated = translated_errors()
        with translated:
            if self._low_vram and self._resident != names:
                self._swap_in(names)
        return translated

    def _swap_in(self, names: tuple[str, ...]) -> None:
        self._drop(tuple(set(self.DIFFUSION + self.TEXT_AND_DECODER).difference(names)))
        self._open(names)
        self._resident = names

    def _open(self, names: tuple[str, ...]) -> None:
        began = time.monotonic()
        self._engines.load(names)
        self._load_seconds[names] = time.monotonic() - began

    def _drop(self, names: tuple[str, ...]) -> None:
        self._clear()
        self._resident = ()  # until all are loaded, so that a load that fails half-way is repeated
        self._engines.unload(names)

    def _clear(self) -> None:
        if self._engines.device.type == "cuda":
            torch.cuda.synchronize(self._engines.device)  # queued work still reads the weights
        self._step.clear()
        self._engines.forget_shapes()
        self._no_noise.clear()
