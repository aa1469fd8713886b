"""Measure rendering on a GPU, from single steps to the whole path, and diffusers beside it; prints one JSON line."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.measuring import cpu, quantiles, smallest_psnr, versions
from benchmarks.reference import Diffusers
from benchmarks.site import Site, make_jobs, write_pictures
from benchmarks.sizes import fresh_and_warm, mixed_and_sorted, seconds_by_function
from engines.check.bench import matmul_tflops
from engines.check.flops import guided_step_flops
from engines.engine_set import EngineSet, load_engine_set
from engines.errors import EngineError
from engines.manifest import load_manifest
from tools.embedded_redis import EmbeddedRedis
from tools.progress import say
from worker.render.denoiser import EngineDenoiser
from worker.render.loop import RenderLoop
from worker.render.request import ImageSpec

ROOT = Path(__file__).resolve().parent.parent
EPILOG = """
Examples:

  python examples/random-model/make.py --full-size --out sd15-sized

  engines build --backend triton --model sd15-sized/model --controlnet sd15-sized/controlnet --shape 512x512
  --shape 256x384 --shape 512x768 --max-batch 8 --out sd15-sized/set

  python -m benchmarks.gpu sd15-sized/set --model sd15-sized/model --controlnet sd15-sized/controlnet
"""
HELP = """
Measure rendering on a GPU with one engine set; prints one JSON line. Shapes and batch sizes are those of the set:
comparisons use its first shape, the mixed trace uses all.

The parts are peak (a large matmul), steps, decode, loop (images/s without queue and files), mixed (10, 20, 30 and 50
steps, all shapes, some in guess mode, against the same work in uniform batches), alike (PSNR of pictures rendered
alone and in a full batch), memory (with and without low_vram), aspects (all shapes in mixed order, against one after
the other), start (a new process, to its first step), sizes (jobs of five shapes through the whole path: on a new
worker, on the same one again, and on one that starts after it and has learnt their sizes), path
(producer, Redis, a worker process, files; with --gpus, one worker on each), diffusers (its pipeline as users call it)
and compiled (the same, compiled with CUDA graphs). Each part runs after a warm-up; the figures are medians.
"""
MIXED_STEPS = (10, 20, 30, 50)
SIZES = 5  # picture sizes of the jobs for `sizes`


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    engine_set: Path
    model: Path | None
    controlnet: Path | None
    steps: int
    images: int
    jobs: int
    device: str
    parts: tuple[str, ...]
    gpus: int

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the set's first shape, in pixels."""
        profile = load_manifest(self.engine_set).profiles[0]
        return profile.max_height, profile.max_width


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
        scales = tuple(0.825 ** (12 - i) for i in range(13)) if guess else (1.0,) * 13
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
            uncond_control_scales=(0.0,) * 13 if guess else scales,
        )

    def drawn(self, requests: Sequence[ImageSpec], *, loop: RenderLoop | None = None) -> list[np.ndarray]:
        """Render together, in a new loop if none is given; returns the pictures in the order of the requests."""
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
        peaks = {}
        for name in ("resident", "low_vram"):
            with load_engine_set(self.plan.engine_set, device=self.plan.device) as engines:
                torch.cuda.reset_peak_memory_stats()
                denoiser = EngineDenoiser(engines, low_vram=name == "low_vram")
                loop = RenderLoop(denoiser)
                futures = [loop.submit(self.request(self.shapes[0], steps=3)) for _ in range(self.batch)]
                while loop.step():
                    pass
                [future.result(600) for future in futures]
                peaks[f"{name}_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
        return peaks


def start(plan: Plan) -> dict[str, object]:
    """Seconds from the start of a process to the end of its first step, with the files in the page cache."""
    code = (
        "import json, sys; sys.path.insert(0, '.'); from pathlib import Path; "
        "from benchmarks.first_step import first_step; "
        f"print(json.dumps(first_step(Path({str(plan.engine_set)!r}), {plan.device!r}, float(sys.argv[1]))))"
    )
    for _ in range(2):
        began = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", code, str(began)], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
        )
        seconds = time.monotonic() - began
    return {"seconds": round(seconds, 1), "parts": json.loads(done.stdout.splitlines()[-1])}


@dataclass(frozen=True)
class Passage:
    """How long one batch of jobs took through producer, Redis, workers and files."""

    seconds: float
    jobs: int
    gpus: int
    first_job_seconds: float  # from the start of `producer submit` to that of the first job
    loop_busy: float  # share of the workers' time
    steps: dict[str, int]  # samples in a step -> steps
    stage_seconds: dict[str, float]  # a job, by the worker's stage

    @property
    def images_per_s(self) -> float:
        """Images per second of all GPUs together, with the start of `producer submit` included."""
        return self.jobs / self.seconds

    def rounded(self) -> dict[str, object]:
        """The figures of the JSON line."""
        return {
            "images_per_s": round(self.images_per_s, 3),
            "jobs": self.jobs,
            "gpus": self.gpus,
            "first_job_seconds": round(self.first_job_seconds, 2),
            "loop_busy": round(self.loop_busy, 3),
            "steps": self.steps,
            "stage_seconds": {stage: round(seconds, 4) for stage, seconds in self.stage_seconds.items()},
        }


def path(plan: Plan, bare: float | None) -> dict[str, object]:
    """Images per second through producer, Redis, worker processes and files, and the overhead over the bare loop."""
    one = whole_path(plan, gpus=1)
    result = one.rounded()
    if bare is not None:
        # Once with the start of `producer submit` included, and once from the first job on: the worker's own share.
        result["overhead"] = round(1 - one.images_per_s / bare, 3)
        result["worker_overhead"] = round(1 - one.jobs / (one.seconds - one.first_job_seconds) / bare, 3)
    if plan.gpus > 1:
        more = whole_path(plan, gpus=plan.gpus)
        result["more"] = more.rounded()
        result["scaling"] = round(more.images_per_s / one.images_per_s, 3)
    return result


def sizes(plan: Plan) -> dict[str, object]:
    """Images per second of jobs of the set's first five shapes, on new workers and on one that has drawn them."""
    profiles = load_manifest(plan.engine_set).profiles[:SIZES]
    shapes = [(profile.max_height, profile.max_width) for profile in profiles]
    return fresh_and_warm(plan.engine_set, shapes=shapes, device=plan.device, jobs=plan.jobs, steps=plan.steps)


def whole_path(plan: Plan, *, gpus: int) -> Passage:
    """Run `plan.jobs` jobs a GPU through the whole path, with one worker on each."""
    with EmbeddedRedis() as server, tempfile.TemporaryDirectory(prefix="bench-gpu-") as name, ExitStack() as workers:
        folder, jobs_in_all = Path(name), plan.jobs * gpus
        settings = {"RENDER_DEVICE": plan.device, "RENDER_JOBS_IN_FLIGHT": "32"}
        site = Site(folder, server.url, engines=plan.engine_set, settings=settings)
        size = min(plan.shape)
        pictures = write_pictures(folder, count=jobs_in_all, side=size)
        for gpu in range(gpus):
            workers.enter_context(site.worker(gpu=gpu))
        # The warm-up's samples end one by one, which leaves batches of every size: those that pay are captured.
        for batch, count, spread in (("warm-up", min(48 * gpus, jobs_in_all), 12), ("measured", jobs_in_all, 1)):
            before, out = site.metrics(), folder / "out"
            jobs = make_jobs(pictures[:count], batch=batch, output=out, size=size, steps=plan.steps, spread=spread)
            seconds, _ = site.render(jobs)
        counted = site.metrics() - before
        return Passage(
            seconds=seconds,
            jobs=count,
            gpus=gpus,
            first_job_seconds=site.first_seconds,
            loop_busy=counted["render_busy_seconds_total"] / (seconds * gpus),
            steps={
                key.rpartition(" ")[2]: int(n) for key, n in counted.items() if key.startswith("render_steps_total")
            },
            stage_seconds=_stage_seconds(counted),
        )


def _stage_seconds(counted: Counter[str]) -> dict[str, float]:
    sums = {
        key.removeprefix("render_stage_seconds_sum "): n for key, n in counted.items() if "stage_seconds_sum" in key
    }
    return {stage: n / counted[f"render_stage_seconds_count {stage}"] for stage, n in sums.items()}


def diffusers(plan: Plan, *, compiled: bool) -> dict[str, float]:
    """Images per second of diffusers' pipeline with one picture a call, eager or compiled."""
    if plan.model is None or plan.controlnet is None:
        return {}
    device = plan.device if plan.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if compiled and device != "cuda":
        return {}
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        pictures = write_pictures(Path(name), count=6, side=min(plan.shape))
        jobs = make_jobs(pictures, batch="d", output=Path(name), size=min(plan.shape), steps=plan.steps)
        pipeline = Diffusers(plan.model, plan.controlnet, device=device, compiled=compiled)
        pipeline.render(jobs[:2])
        seconds, _ = pipeline.render(jobs[2:])
    return {"images_per_s": round(len(jobs[2:]) / seconds, 3)}


# In this order: the first parts need the set in this process, and the others need its memory.
BENCH_PARTS: dict[str, Callable[[Bench], Mapping[str, object]]] = {
    "peak": Bench.peak,
    "steps": Bench.steps,
    "decode": Bench.decode,
    "loop": Bench.loop,
    "mixed": Bench.mixed,
    "alike": Bench.alike,
    "aspects": Bench.aspects,
    "memory": Bench.memory,
}
OTHER_PARTS: dict[str, Callable[[Plan, float | None], Mapping[str, object]]] = {
    "start": lambda plan, _: start(plan),
    "sizes": lambda plan, _: sizes(plan),
    "path": path,
    "diffusers": lambda plan, _: diffusers(plan, compiled=False),
    "compiled": lambda plan, _: diffusers(plan, compiled=True),
}
PARTS = (*BENCH_PARTS, *OTHER_PARTS)


def measure(plan: Plan) -> dict[str, object]:
    """Run the chosen parts in order."""
    figures: dict[str, object] = {}
    with load_engine_set(plan.engine_set, device=plan.device) as engines:
        bench = Bench(plan, engines)
        for name, part in BENCH_PARTS.items():
            if name in plan.parts:
                figures[name] = timed_part(name, partial(part, bench))
        figures["set"] = {
            "backend": engines.manifest.backend,
            "precision": engines.manifest.precision,
            "shapes": engines.shapes_text(),
            "max_batch": engines.max_batch,
            "digest": engines.digest,
        }
        figures["device"] = torch.cuda.get_device_name() if engines.device.type == "cuda" else "cpu"
    for name, other in OTHER_PARTS.items():
        if name in plan.parts:
            figures[name] = timed_part(name, partial(other, plan, bench.bare_images_per_s))
    return figures


def timed_part(name: str, call: Callable[[], Mapping[str, object]]) -> Mapping[str, object]:
    """Run one part and print its figures on stderr."""
    began = time.monotonic()
    result = call()
    say(f"{name} ({time.monotonic() - began:.0f} s): {json.dumps(result)}")
    return result


def main(
    engine_set: Annotated[Path, typer.Argument(help="Folder of an engine set.", metavar="SET")],
    model: Annotated[Path | None, typer.Option(help="The set's model, for the comparison with diffusers.")] = None,
    controlnet: Annotated[Path | None, typer.Option(help="Its ControlNet.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="DDIM steps a picture.")] = 20,
    images: Annotated[int, typer.Option(min=1, help="Pictures for mixed.")] = 64,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs through the whole path, and pictures for loop.")] = 400,
    gpus: Annotated[int, typer.Option(min=1, help="For path: one worker first, then one on each of so many.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}. Repeatable.")] = None,
) -> None:
    """Parse, measure, print."""
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r}; use one of {', '.join(PARTS)}", param_hint="--only")
    plan = Plan(engine_set, model, controlnet, steps, images, jobs, device, tuple(only or PARTS), gpus)
    figures = measure(plan)
    packages = ("torch", "diffusers", "transformers", "celery", "redis")
    print(
        json.dumps({"bench": "gpu", "ddim_steps": steps, **figures, "hardware": cpu(), "versions": versions(*packages)})
    )


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(help=HELP, epilog=EPILOG)(main)
    try:
        app()
    except EngineError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
