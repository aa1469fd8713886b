"""Several engine sets in one worker against one set; prints one JSON line."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer

from benchmarks.command import run
from benchmarks.demo_sets import are_here, build_demo_sets
from benchmarks.measuring import cpu, smallest_psnr, versions
from benchmarks.site import Site, make_jobs, write_pictures
from engines.build.builder import BuildRequest, build_set
from engines.device import has_gpu
from engines.spec import Profile
from jobs.job import RenderJob
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis
from tools.progress import say
from worker.set_folders import set_folders

CACHE = ROOT / "build" / "bench-many-models"
PACKAGES = ("torch", "onnxruntime", "celery", "redis")
NAMES = ("default", "second", "third")
Model = Literal["demo", "random"]
# On a GPU, the jobs of each set that warm a worker up, in full batches, and how many step counts they have: as in
# benchmarks.gpu, whose warm-up has 48 jobs for batches of eight.
WARM_UP_BATCHES, WARM_UP_SPREAD = 6, 12  # the longest has 11 steps more than --steps, and may have 999

EPILOG = """
Examples:

  python -m benchmarks.many_models

  python -m benchmarks.many_models --jobs 600 --steps 8 --resident 1 --model random

  python -m benchmarks.many_models --sets models --size 512 --steps 20 --max-batch 8
"""
HELP = """
Several engine sets in one worker against one set; prints one JSON line.

The jobs are for all sets in equal numbers, in mixed order. Without --sets there are three for the CPU: the demo model,
plain and with two LoRAs, or, with --model random, a tiny model with three sets of random weights. They are rendered
four times, from the CSV to the files: by a worker that holds one set (all jobs without their models), by workers that
hold one set each (only the jobs of their set: the pictures to compare with), by a worker that holds all sets, and by
one on whose device only some of them fit.

All of them are warm: before the clock starts, each worker renders jobs with other prompts for each set that it holds.
On a CPU that is one job for each. On a GPU there are six full batches of jobs for each, as far as there are so many,
whose samples end one by one. So the worker has captured graphs of full batches, and of those smaller ones that pay.
Where only some sets fit, a set that comes back during the measurement captures its graphs again, which is measured.

`samples_per_step` is how full the batches were. `turns` are of the last worker: how often sets were loaded, and for
each that left how long its turn had lasted, in seconds and in loadings, and what ended it. A turn that `lasted` takes
20 loadings or more: `least_that_lasted` is the shortest of these. One that ended by `idle` may be shorter, since no set
on the device had work: those of the warm-up, and the last ones.
"""


@dataclass(frozen=True)
class Plan:
    """What to measure."""

    jobs: int
    steps: int
    size: int
    max_batch: int
    threads: int
    resident: int
    device: str
    names: tuple[str, ...]
    warm_up_jobs: int  # of each set before the clock starts


@dataclass(frozen=True)
class Rendered:
    """Seconds from the start of `producer submit` to the last record, CPU seconds of the worker, and the pictures."""

    seconds: float
    cpu_seconds: float
    samples_per_step: float
    pictures: Sequence[np.ndarray]


class Farm:
    """Workers that hold one set or several, one after the other, on one Redis."""

    def __init__(self, plan: Plan, sets: Path, folder: Path, url: str) -> None:
        self._plan, self._sets, self._folder, self._url = plan, sets, folder, url

    def render(self, case: str, jobs: Sequence[RenderJob], *, engines: str = "", **settings: object) -> Rendered:
        """Render jobs with one set, or with the folder of all sets."""
        say(f"{case}: {len(jobs)} jobs")
        folder = self._folder / case
        folder.mkdir()
        site = Site(folder, self._url, engines=self._sets / engines, settings=self._environment(settings))
        with site.worker():
            site.render(warm_up(self._plan, jobs, case))
            before, steps = site.cpu_seconds(), _steps(site)
            seconds, pictures = site.render(jobs)
            cpu_seconds = site.cpu_seconds() - before
            steps = _steps(site) - steps
        full = sum(samples * number for samples, number in steps.items()) / steps.total()
        say(f"{case}: {len(jobs) / seconds:.1f} images/s, CPU {cpu_seconds:.1f} s, {full:.2f} samples a step")
        return Rendered(seconds, cpu_seconds, round(full, 2), pictures)

    def turns(self, case: str) -> dict[str, object]:
        """What the worker's log says of the sets that came and went."""
        lines = (self._folder / case / "worker0.log").read_text().splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        ended = [event for event in events if event["event"] == "engine_set_unloaded"]
        turns = [
            {
                "seconds": event["turn_seconds"],
                "in_loadings": round(event["turn_seconds"] / max(event["reload_seconds"], 0.001), 1),
                "ended_by": event["ended_by"],
            }
            for event in ended
        ]
        lasted = [turn["in_loadings"] for turn in turns if turn["ended_by"] == "lasted"]
        loads = sum(event["event"] == "engine_set_loaded" for event in events)
        return {"loads": loads, "ended": turns, "least_that_lasted": min(lasted, default=None)}

    def _environment(self, settings: Mapping[str, object]) -> dict[str, str]:
        plan = self._plan
        return {
            "RENDER_DEVICE": plan.device,
            "RENDER_THREADS": str(plan.threads),
            "RENDER_MAX_BATCH": str(plan.max_batch),  # sets of --sets may take more
            "RENDER_ALLOW_FOLDERS": str(self._folder),
            # Enough to fill a batch of each set while more are fetched.
            "RENDER_JOBS_IN_FLIGHT": str(2 * plan.max_batch * len(plan.names)),
            "OMP_NUM_THREADS": str(plan.threads),
            **{f"RENDER_{name.upper()}": str(value) for name, value in settings.items()},
        }


def _steps(site: Site) -> Counter[int]:
    """Samples in a step -> steps so far, of all workers."""
    name = "render_steps_total "
    return Counter({int(key.removeprefix(name)): int(n) for key, n in site.metrics().items() if key.startswith(name)})


def warm_up(plan: Plan, jobs: Sequence[RenderJob], case: str) -> list[RenderJob]:
    """The first jobs of each model with other prompts, as a batch of its own.

    The worker has loaded what fits before the clock starts. On a GPU it also has graphs of full batches: the samples
    end one by one, which leaves batches of every size, and those that pay are captured.
    """
    seen: Counter[str | None] = Counter()
    warm = []
    for job in jobs:
        number = seen[job.parameters.model]
        if number < plan.warm_up_jobs:
            changed = {"prompt": f"to warm up, number {number}", "ddim_steps": plan.steps + number % WARM_UP_SPREAD}
            parameters = job.parameters.model_copy(update=changed)
            warm.append(RenderJob.create(parameters, batch=f"{case}-warm-up", row=job.row, output=job.output))
        seen[job.parameters.model] += 1
    return warm


def mixed_jobs(plan: Plan, pictures: Sequence[Path], *, batch: str, output: Path) -> list[RenderJob]:
    """Equal numbers of jobs for each model, shuffled."""
    models = [plan.names[number % len(plan.names)] for number in range(plan.jobs)]
    random.Random(0).shuffle(models)
    plain = make_jobs(pictures, batch=batch, output=output, size=plan.size, steps=plan.steps, spread=3)
    return [with_model(job, model) for job, model in zip(plain, models, strict=True)]


def with_model(job: RenderJob, model: str | None, *, batch: str | None = None) -> RenderJob:
    """The same job for another model, perhaps in another batch."""
    parameters = job.parameters.model_copy(update={"model": model})
    return RenderJob.create(parameters, batch=batch or job.batch, row=job.row, output=job.output)


def measure(plan: Plan, sets: Path, folder: Path) -> dict[str, object]:
    """Run all cases; returns the figures."""
    pictures = write_pictures(folder, count=plan.jobs, shape=(2 * plan.size, 2 * plan.size))
    with EmbeddedRedis() as server:
        farm = Farm(plan, sets, folder, server.url)
        mixed = mixed_jobs(plan, pictures, batch="all", output=folder / "out")
        one = farm.render("one", [with_model(job, None, batch="one") for job in mixed], engines=plan.names[0])
        alone = _alone(farm, mixed, plan.names)
        all_fit = farm.render("all", mixed)
        some = [with_model(job, job.parameters.model, batch="some") for job in mixed]
        some_fit = farm.render("some", some, sets_resident=plan.resident)
        turns = farm.turns("some")
    cases = {"one": one, "all_fit": all_fit, "some_fit": some_fit}
    drawn = [
        (alone[job.row], picture)
        for each in (all_fit, some_fit)
        for job, picture in zip(mixed, each.pictures, strict=True)
    ]
    return {
        "images_per_second": {name: round(plan.jobs / case.seconds, 2) for name, case in cases.items()},
        "cpu_seconds": {name: round(case.cpu_seconds, 1) for name, case in cases.items()},
        "samples_per_step": {name: case.samples_per_step for name, case in cases.items()},
        "all_fit_of_one": round(one.seconds / all_fit.seconds, 3),
        "some_fit_of_one": round(one.seconds / some_fit.seconds, 3),
        # On a machine that is busy with other things, CPU seconds tell more than the clock.
        "all_fit_of_one_cpu": round(one.cpu_seconds / all_fit.cpu_seconds, 3),
        "some_fit_of_one_cpu": round(one.cpu_seconds / some_fit.cpu_seconds, 3),
        "turns": turns,
        "psnr_db_min": smallest_psnr(drawn),
    }


def _alone(farm: Farm, mixed: Sequence[RenderJob], names: Sequence[str]) -> dict[int, np.ndarray]:
    """Row -> the picture of a worker that holds the row's set alone."""
    pictures: dict[int, np.ndarray] = {}
    for name in names:
        own = [with_model(job, name, batch=f"alone-{name}") for job in mixed if job.parameters.model == name]
        rendered = farm.render(f"alone-{name}", own, engines=name)
        pictures |= zip([job.row for job in own], rendered.pictures, strict=True)
    return pictures


def build(model: Model, size: int, max_batch: int) -> Path:
    """A folder of three sets, built unless their manifests say that they are up to date."""
    sets = CACHE / f"{model}-{size}-batch{max_batch}"
    profile = Profile.parse(f"{size}x{size}", max_batch=max_batch)
    if model == "demo":
        build_demo_sets(NAMES, sets, profile=profile)
        return sets
    for seed, name in enumerate(NAMES):
        weights = CACHE / f"random-model-{seed}"
        make = [sys.executable, "examples/random-model/make.py", "--out", str(weights), "--seed", str(seed)]
        subprocess.run(make, cwd=ROOT, check=True)
        build_set(
            BuildRequest(
                model=str(weights / "model"),
                controlnet=str(weights / "controlnet"),
                out=sets / name,
                backend="onnxruntime",
                precision="fp32",
                profiles=(profile,),
            )
        )
    return sets


def surroundings(plan: Plan) -> dict[str, Any]:
    """The hardware, versions and settings of this run."""
    return {
        "plan": vars(plan) | {"names": list(plan.names)},
        "hardware": cpu() | {"load": round(os.getloadavg()[0], 1)},
        "versions": versions(*PACKAGES),
    }


def main(
    jobs: Annotated[int, typer.Option(min=1, help="Jobs of all sets together, one picture each.")] = 300,
    steps: Annotated[int, typer.Option(min=1, max=988, help="DDIM steps of the shortest jobs.")] = 4,
    size: Annotated[int, typer.Option(min=64, help="Side of the pictures in pixels, a multiple of 64.")] = 64,
    max_batch: Annotated[int, typer.Option(min=1, help="Samples that share an engine call.")] = 4,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads of the engines (default: all cores).")] = None,
    resident: Annotated[int, typer.Option(min=1, help="Sets that fit in the last case.")] = 2,
    model: Annotated[Model | None, typer.Option(help="What the sets are made of (default: demo where it is).")] = None,
    sets: Annotated[Path | None, typer.Option(help="Folder of engine sets, on whatever device they need.")] = None,
) -> None:
    """Parse, measure, print."""
    if size % 64:
        raise typer.BadParameter("--size takes a multiple of 64")
    device = "cpu" if sets is None else "auto"
    if sets is None:
        say("engine sets")
        sets = build(model or ("demo" if are_here() else "random"), size, max_batch)
    names = tuple(set_folders(sets))
    if len(names) < 2:
        raise typer.BadParameter(f"--sets {sets} holds fewer than two engine sets")
    if jobs < len(names):
        raise typer.BadParameter(f"--jobs {jobs} is not enough for a job of each of {len(names)} engine sets")
    warm_up_jobs = WARM_UP_BATCHES * max_batch if device == "auto" and has_gpu() else 1
    plan = Plan(jobs, steps, size, max_batch, threads or os.cpu_count() or 1, resident, device, names, warm_up_jobs)
    with tempfile.TemporaryDirectory(prefix="bench-many-") as folder:
        measured = measure(plan, sets, Path(folder))
    print(json.dumps({"bench": "many_models", **measured, **surroundings(plan)}))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Redis and the worker are stopped too
    run(main, help=HELP, epilog=EPILOG)
