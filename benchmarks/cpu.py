"""Measure rendering on the CPU: the whole path, the bare loop and diffusers, side by side; prints one JSON line."""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from benchmarks.command import run
from benchmarks.measuring import cpu, quantiles, smallest_psnr, versions
from benchmarks.reference import Diffusers
from benchmarks.site import Site, make_jobs, write_pictures
from engines.build.builder import BuildRequest, build_set
from engines.spec import Profile
from jobs.job import RenderJob
from jobs.settings import load_settings
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis
from tools.progress import say
from worker.renderer import load_renderer

CACHE = ROOT / "build" / "bench-cpu"
PACKAGES = ("torch", "onnxruntime", "diffusers", "transformers", "celery", "redis", "pillow")
WAYS = ("worker", "loop", "diffusers")

EPILOG = """
Examples:

  python -m benchmarks.cpu

  python -m benchmarks.cpu --model examples/demo-model/weights/model --controlnet examples/demo-model/weights/controlnet

  python -m benchmarks.cpu --jobs 8 --steps 10 --size 512 --max-batch 2 --rounds 5
"""
HELP = """
Measure rendering on the CPU: the whole path, the bare loop and diffusers, side by side; prints one JSON line.

A round renders the same jobs three times, with the same weights, threads and noise: through the whole path (producer,
Redis, a worker process, files), by the worker's loop alone from prepared samples, and by diffusers'
StableDiffusionControlNetPipeline, called once a job with its edge map ready. The three take turns, and their medians
are compared, and so are the pictures. On a machine that is busy with other things, CPU seconds tell more than the
clock: those of the worker process, and of this process for the other two (edge maps included in all three).
"""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    jobs: int
    steps: int
    size: int
    max_batch: int
    threads: int
    rounds: int
    model: Path
    controlnet: Path


@dataclass(frozen=True)
class Taken:
    """One round of one of the three: seconds by the clock, CPU seconds of all cores together, and the pictures."""

    wall: float
    cpu: float
    pictures: Sequence[np.ndarray]


@dataclass
class Times:
    """The seconds of each round, for each of the three."""

    wall: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})
    cpu: dict[str, list[float]] = field(default_factory=lambda: {way: [] for way in WAYS})

    def add(self, taken: Mapping[str, Taken]) -> None:
        """Add a round."""
        for way, one in taken.items():
            self.wall[way].append(one.wall)
            self.cpu[way].append(one.cpu)


class BareLoop:
    """The worker's loop in this process, without queue, files or threads other than the engines'."""

    def __init__(self, engines: Path, plan: Plan) -> None:
        self._renderer = load_renderer(load_settings(engine_dir=str(engines), device="cpu", threads=plan.threads))

    def render(self, jobs: Sequence[RenderJob]) -> tuple[float, list[np.ndarray]]:
        """Seconds from prepared samples to pixels, and the pictures."""
        loop = self._renderer.loop
        prepared = [self._renderer.prepare(job, Path(job.parameters.image).read_bytes()) for job in jobs]
        began = time.monotonic()
        futures = [loop.submit(one.specs[0]) for one in prepared]
        while loop.step():
            pass
        return time.monotonic() - began, [future.result(0) for future in futures]


def measure(plan: Plan, engines: Path, folder: Path) -> dict[str, object]:
    """Run a round to warm up, then all others; returns the figures."""
    pictures = write_pictures(folder, count=plan.jobs, shape=(2 * plan.size, 2 * plan.size))
    times = Times()
    likeness: list[float] = []
    with EmbeddedRedis() as server:
        site = Site(folder, server.url, engines=engines, settings=worker_settings(plan))
        renderers = (site, BareLoop(engines, plan), Diffusers(plan.model, plan.controlnet))
        ways: dict[str, Site | BareLoop | Diffusers] = dict(zip(WAYS, renderers, strict=True))
        torch.set_num_threads(plan.threads)
        say("worker starts")
        with site.worker():
            for number in range(plan.rounds + 1):
                batch = f"round-{number}"
                jobs = make_jobs(pictures, batch=batch, output=folder / "out", size=plan.size, steps=plan.steps)
                taken = {name: once(way, jobs) for name, way in ways.items()}
                walls = ", ".join(f"{name} {one.wall:.1f} s (CPU {one.cpu:.1f} s)" for name, one in taken.items())
                say(f"round {number}: {walls}")
                drawn = zip(taken["worker"].pictures, taken["diffusers"].pictures, strict=True)
                likeness.append(smallest_psnr(drawn))
                if number:  # the first one warms up
                    times.add(taken)
    return figures(plan, times) | {"psnr_db_min": min(likeness)}


def worker_settings(plan: Plan) -> dict[str, str]:
    """As many threads as the others, and enough jobs in flight to fill a batch while more are fetched."""
    return {
        "RENDER_DEVICE": "cpu",
        "RENDER_THREADS": str(plan.threads),
        "RENDER_JOBS_IN_FLIGHT": str(max(16, 2 * plan.max_batch)),
        "OMP_NUM_THREADS": str(plan.threads),
    }


def once(way: Site | BareLoop | Diffusers, jobs: Sequence[RenderJob]) -> Taken:
    """Run one round of one of the three."""

    def cpu_seconds() -> float:
        return way.cpu_seconds() if isinstance(way, Site) else time.process_time()

    before = cpu_seconds()
    wall, pictures = way.render(jobs)
    return Taken(wall, cpu_seconds() - before, pictures)


def figures(plan: Plan, times: Times) -> dict[str, object]:
    """Medians over rounds. Ratios are taken within a round, whose three parts ran under the same load."""
    wall, cpu = times.wall, times.cpu
    return {
        "images_per_second": {way: round(plan.jobs / statistics.median(wall[way]), 3) for way in WAYS},
        "speedup_over_diffusers": median_ratio(wall["diffusers"], wall["worker"]),
        "worker_overhead": round(1 - median_ratio(wall["loop"], wall["worker"]), 3),
        "seconds": {way: quantiles(wall[way], digits=2) for way in WAYS},
        "speedup_over_diffusers_cpu": median_ratio(cpu["diffusers"], cpu["worker"]),
        "worker_overhead_cpu": round(1 - median_ratio(cpu["loop"], cpu["worker"]), 3),
        "cpu_seconds": {way: quantiles(cpu[way], digits=2) for way in WAYS},
    }


def median_ratio(of: Sequence[float], to: Sequence[float]) -> float:
    """The median over rounds of one time over another."""
    return round(statistics.median(one / other for one, other in zip(of, to, strict=True)), 3)


def build(plan: Plan) -> Path:
    """Build the onnxruntime set of the plan's weights, unless its manifest says that it is up to date."""
    out = CACHE / f"engine-set-{plan.size}-batch{plan.max_batch}"
    build_set(
        BuildRequest(
            model=str(plan.model),
            controlnet=str(plan.controlnet),
            out=out,
            backend="onnxruntime",
            precision="fp32",
            profiles=(Profile.parse(f"{plan.size}x{plan.size}", max_batch=plan.max_batch),),
        )
    )
    return out


def surroundings(plan: Plan) -> dict[str, object]:
    """The hardware, versions and settings of this run."""
    return {
        "plan": vars(plan) | {"model": plan.model.name, "controlnet": plan.controlnet.name, "warm_up_rounds": 1},
        "hardware": cpu() | {"threads": plan.threads, "load": round(os.getloadavg()[0], 1)},
        "versions": versions(*PACKAGES),
    }


def main(
    model: Annotated[
        Path | None, typer.Option(help="Diffusers folder of SD1.5's graph (default: a random one).")
    ] = None,
    controlnet: Annotated[Path | None, typer.Option(help="Diffusers folder of its ControlNet.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs a round, one picture each.")] = 8,
    steps: Annotated[int, typer.Option(min=1, max=999, help="DDIM steps a job.")] = 20,
    size: Annotated[int, typer.Option(min=64, help="Side of the pictures in pixels, a multiple of 64.")] = 256,
    max_batch: Annotated[int, typer.Option(min=1, help="Samples that share an engine call.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of each (default: all cores).")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds measured, after one that warms up.")] = 3,
) -> None:
    """Parse, measure, print."""
    if (model is None) != (controlnet is None):
        raise typer.BadParameter("--model and --controlnet belong together")
    if size % 64:
        raise typer.BadParameter("--size takes a multiple of 64")
    if model is None or controlnet is None:
        say("random model")
        made = CACHE / "random-model"
        make = [sys.executable, "examples/random-model/make.py", "--out", str(made)]
        subprocess.run(make, cwd=ROOT, check=True)
        model, controlnet = made / "model", made / "controlnet"
    plan = Plan(jobs, steps, size, max_batch, threads or os.cpu_count() or 1, rounds, model, controlnet)
    say("engine set")
    engines = build(plan)
    with tempfile.TemporaryDirectory(prefix="bench-cpu-") as folder:
        measured = measure(plan, engines, Path(folder))
    print(json.dumps({"bench": "cpu", **measured, **surroundings(plan)}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Redis and the worker are stopped too
    run(main, help=HELP, epilog=EPILOG)
