"""The parts of `benchmarks.gpu` that start processes: a first step, and jobs through the whole path."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.gpu_plan import Plan
from benchmarks.site import Site, make_jobs, write_pictures
from benchmarks.sizes import fresh_and_warm
from engines.manifest import load_manifest
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis

SIZES = 5  # picture sizes of the jobs for `sizes`


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
        pictures = write_pictures(folder, count=jobs_in_all, shape=plan.shape)
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
