"""The parts of `benchmarks.gpu` that have an engine set in their own process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from benchmarks.gpu_plan import Plan
from benchmarks.measuring import quantiles, smallest_psnr
from benchmarks.sizes import mixed_and_sorted, seconds_by_function
from engines.check.bench import matmul_tflops
from engines.check.flops import guided_step_flops
from engines.engine_set import EngineSet, load_engine_set
from engines.spec import CONTROLS
from worker.prepare import GUESS_DECAY
from worker.render.denoiser import EngineDenoiser
from worker.render.loop import RenderLoop
from worker.render.request import ImageSpec

MIXED_STEPS = (10, 20, 30, 50)


class Bench:
    """One engine set on one device, and the parts that need it in this process."""

    def __init__(self, plan: Plan, engines: EngineSet) -> None:
        self.plan, self.engines = plan, engines
        self.denoiser = EngineDenoiser(engines)
        self.batch = engines.max_batch
        self.shapes = [(profile.max_height, profile.max_width) for profile in engines.manifest.profiles]
        self.bare_images_per_s: float | None = None  # known after `loop`
        self._seed = 0

    def wait(self) -> None:
        """Wait until the device has finished."""
        if self.engines.device.type == "cuda":
            torch.cuda.synchronize()

    def timed(self, call: Callable[[], object]) -> float:
        """The seconds of a call, with the work that it gives the device."""
        self.wait()
        began = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - began

    def request(self, shape: tuple[int, int], *, steps: int, guess: bool = False, seed: int | None = None) -> ImageSpec:
        """A sample with random edges and prompt; the same seed gives the same sample."""
        self._seed += 1
        rng = np.random.default_rng(self._seed if seed is None else seed)
        geometry = self.engines.geometry
        ids = rng.integers(0, geometry.bos_token_id, (2, geometry.context_length))
        scales = tuple(GUESS_DECAY ** (CONTROLS - 1 - i) for i in range(CONTROLS)) if guess else (1.0,) * CONTROLS
        return ImageSpec(
            job_id=str(self._seed),
            sample=0,
            edges=((rng.random(shape) < 0.08) * 255).astype(np.uint8),
            cond_ids=ids[0],
            uncond_ids=ids[1],
            seed=self._seed if seed is None else seed,
            steps=steps,
            eta=0.0,
            scale=7.5,
            cond_control_scales=scales,
            uncond_control_scales=(0.0,) * CONTROLS if guess else scales,
        )

    def drawn(self, requests: Sequence[ImageSpec], *, loop: RenderLoop | None = None) -> list[np.ndarray]:
        """Render together, by default in a new loop; returns the pictures in the order of the requests."""
        loop = RenderLoop(self.denoiser) if loop is None else loop
        futures = [loop.submit(request) for request in requests]
        while loop.step():
            pass
        return [future.result(600) for future in futures]

    # -- parts --------------------------------------------------------------------------------------------------------

    def peak(self) -> dict[str, float]:
        """TFLOP/s of a large matmul in the set's precision: the practical limit."""
        return {"matmul_tflops": round(matmul_tflops(self.engines.device, self.engines.io_dtype), 1)}

    def steps(self) -> dict[str, object]:
        """Milliseconds of a guided step, by shape and batch size."""
        return {
            f"{height}x{width}": {str(n): self._step((height, width), n) for n in dict.fromkeys((1, self.batch))}
            for height, width in self.shapes
        }

    def _step(self, shape: tuple[int, int], samples: int) -> dict[str, float]:
        loop = RenderLoop(self.denoiser)
        requests = [self.request(shape, steps=4 * self.plan.steps + 3) for _ in range(samples)]
        loop.warm_up([(requests[0].bucket_key, samples)])  # a graph of this size, whatever others there are
        loop.warm()
        for request in requests:
            loop.submit(request)
        for _ in range(2):
            loop.step()
        # In blocks: waiting after each step would add its launch, which otherwise overlaps with the step before.
        block = self.plan.steps
        seconds = quantiles([self.timed(lambda: [loop.step() for _ in range(block)]) / block for _ in range(4)])
        loop.shutdown.requeue_all()
        loop.step()
        tflop = samples * guided_step_flops(self.engines.geometry, *shape) / 1e12
        return {
            "p50_ms": round(seconds["p50"] * 1000, 2),
            "p95_ms": round(seconds["p95"] * 1000, 2),
            "image_steps_per_s": round(samples / seconds["p50"], 1),
            "tflops": round(tflop / seconds["p50"], 1),
        }

    def decode(self) -> dict[str, float]:
        """Milliseconds to decode a full batch of the first shape and copy the pixels to the host."""
        height, width = self.shapes[0]
        latents = torch.randn(self.batch, 4, height // 8, width // 8, device=self.engines.device)
        for _ in range(2):
            self.denoiser.decode(latents).pictures()
        return quantiles([1000 * self.timed(lambda: self.denoiser.decode(latents).pictures()) for _ in range(10)])

    def loop(self) -> dict[str, float]:
        """Images per second of the bare loop, with all the work of the whole path queued at once.

        It renders as many images as the whole path: after a minute at its power limit a GPU is slower than after a
        second.
        """
        requests = [self.request(self.shapes[0], steps=self.plan.steps) for _ in range(self.plan.jobs)]
        self.drawn([self.request(self.shapes[0], steps=2) for _ in range(self.batch + self.plan.jobs % self.batch)])
        seconds = self.timed(lambda: self.drawn(requests))
        self.bare_images_per_s = len(requests) / seconds
        return {"images_per_s": round(self.bare_images_per_s, 3), "images": len(requests)}

    def mixed(self) -> dict[str, float]:
        """The throughput of a mixed trace over that of uniform full batches with as many sample-steps."""
        requests = [
            self.request(self.shapes[n % len(self.shapes)], steps=MIXED_STEPS[n % 4], guess=n % 5 == 0)
            for n in range(self.plan.images)
        ]
        uniform = 0.0
        for shape in self.shapes:
            own = [request for request in requests if request.shape == shape]
            work = sum(request.steps for request in own)
            same = [self.request(shape, steps=self.plan.steps) for _ in range(max(self.batch, len(own)))]
            self.drawn(same[: self.batch])
            seconds = self.timed(partial(self.drawn, same))
            uniform += seconds * work / (len(same) * self.plan.steps)
        loop = RenderLoop(self.denoiser)
        self.drawn(requests, loop=loop)
        while loop.warm():  # captures the graphs that were missed, as the idle loop of a worker does
            pass
        mixed = self.timed(lambda: self.drawn(requests, loop=loop))
        return {
            "seconds": round(mixed, 2),
            "uniform_seconds": round(uniform, 2),
            "efficiency": round(uniform / mixed, 3),
        }

    def alike(self) -> dict[str, float]:
        """The smallest PSNR between pictures rendered alone and in a full batch with mixed steps."""
        requests = [self.request(self.shapes[0], steps=10 + 3 * n, seed=n) for n in range(self.batch)]
        denoiser = EngineDenoiser(self.engines)  # without graphs: one of a larger batch would be padded
        alone = [self.drawn([request], loop=RenderLoop(denoiser))[0] for request in requests]
        pairs = zip(self.drawn(requests), alone, strict=True)
        return {"psnr_db_min": smallest_psnr(pairs)}

    def aspects(self) -> dict[str, object]:
        """Images per second of a warm loop with all shapes in mixed order, and with one shape after the other."""
        loop, each = RenderLoop(self.denoiser), max(1, 144 // len(self.shapes))
        request = partial(self.request, steps=self.plan.steps)
        first, last = (request(self.shapes[n]).bucket_key for n in (0, -1))
        self.denoiser.warm(first, self.batch)  # with what only the first size of a process costs
        profiled = self.denoiser.warm, last, self.batch
        figures: dict[str, object] = {}
        if len(self.shapes) > 1:
            figures["one_size"] = seconds_by_function(*profiled)
        figures |= mixed_and_sorted(loop, request, shapes=self.shapes, each=each)
        # The same once more, when the process knows each library's choices: what a capture itself costs.
        again = EngineDenoiser(self.engines)
        figures["captured_again_seconds"] = round(self.timed(lambda: again.warm(last, self.batch)), 3)
        return figures

    def memory(self) -> dict[str, float]:
        """Peak GiB of a full batch, with all engines resident and with low_vram."""
        if self.engines.device.type != "cuda":
            return {}
        return {
            f"{name}_gib": round(self._peak_bytes(low_vram=low_vram) / 2**30, 2)
            for name, low_vram in (("resident", False), ("low_vram", True))
        }

    def _peak_bytes(self, *, low_vram: bool) -> int:
        """The peak of a loop with a set of its own, as a worker has it, beside what this process holds already."""
        gc.collect()
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        with load_engine_set(self.plan.engine_set, device=self.plan.device) as engines:
            self.drawn(
                [self.request(self.shapes[0], steps=3) for _ in range(self.batch)],
                loop=RenderLoop(EngineDenoiser(engines, low_vram=low_vram)),
            )
        return torch.cuda.max_memory_allocated() - before
