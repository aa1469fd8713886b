"""Run one worker process for thousands of jobs and watch its memory; prints one JSON line."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
from PIL import Image

from benchmarks.line_chart import line_chart
from benchmarks.measuring import cpu, versions
from benchmarks.resident import Growth, Memory, thinned
from engines.files import replacing
from jobs.job import RenderJob, RenderParameters
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from tools.embedded_redis import EmbeddedRedis
from tools.progress import say
from tools.worker_process import WorkerProcess

CHUNK = 100  # jobs of a batch, whose files are deleted when it has ended
START_SECONDS, STOP_SECONDS, LAST_JOBS_SECONDS = 180, 60, 60
POLL_SECONDS, SAY_SECONDS = 0.5, 20.0
PACKAGES = ("torch", "numpy", "pillow", "celery", "kombu", "redis")
HELP = """
Run one worker process for thousands of jobs, each with a prompt and a picture of its own, and watch its memory. Prints
one JSON line, with at most 60 of its samples: jobs done, seconds, resident MiB, anonymous MiB.

The memory counts as flat if, after the first --settle jobs, the median anonymous memory of the last fifth of the
samples exceeds that of the first fifth by at most 16 MiB, or 2% where that is more.
"""
EPILOG = """
examples:

  python -m benchmarks.soak --engines fake: --jobs 10000
  python -m benchmarks.soak --engines engine-set --side 256 --jobs 10000 --minutes 8.5 --plot soak.svg
  python -m benchmarks.soak --engines fake: --jobs 32 --settle 0 --picture 7000x7000 --mode RGBA --distinct 4
"""


@dataclass(frozen=True)
class Plan:
    """What to run."""

    engines: str
    jobs: int
    side: int
    steps: int
    in_flight: int
    picture: tuple[int, int]  # width and height of the inputs, in pixels
    mode: str
    distinct: int  # pictures
    prompts: int
    minutes: float
    settle: int
    plot: Path | None

    @classmethod
    def of(cls, options: argparse.Namespace) -> Plan:
        """From the command line."""
        values = vars(options)
        width, _, height = (options.picture or f"{options.side}x{options.side}").partition("x")
        values["picture"] = int(width), int(height)
        for name in ("distinct", "prompts"):
            values[name] = values[name] or options.jobs
        return cls(**values)


class Feed:
    """Enqueues jobs in batches, so that there is always work and never much, and deletes what has been rendered."""

    def __init__(self, plan: Plan, folder: Path, ledger: Ledger) -> None:
        self._plan = plan
        self._folder = folder
        self._ledger = ledger
        self._open: dict[str, int] = {}  # batches that have not ended, with the jobs of each
        self._enqueued = 0
        self._ahead = 2 * max(CHUNK, plan.in_flight)
        self._ended = 0  # jobs of batches that have

    def top_up(self) -> None:
        """Enqueue another batch if little is left."""
        ahead = self._enqueued - self.done
        while self._enqueued < self._plan.jobs and ahead < self._ahead:
            number = min(CHUNK, self._plan.jobs - self._enqueued)
            self._enqueue(number)
            ahead += number

    @property
    def done(self) -> int:
        """Jobs that are done. Batches that have ended are forgotten, with their files."""
        done = self._ended
        for batch, number in list(self._open.items()):
            counts = self._ledger.counts(batch)
            self._check(batch, counts)
            done += counts.done
            if counts.done == number:
                self._ended += self._open.pop(batch)
                shutil.rmtree(self._folder / "out" / batch, ignore_errors=True)
        return done

    @property
    def enqueued(self) -> int:
        """Jobs so far."""
        return self._enqueued

    def _check(self, batch: str, counts: Counts) -> None:
        if counts.failed or counts.cancelled:
            errors = {result.error for result in self._ledger.results(batch) if result.state != "done"}
            raise SystemExit(f"{counts.failed} jobs of {batch} failed: {sorted(map(str, errors))[:3]}")

    def _enqueue(self, number: int) -> None:
        rows = range(self._enqueued, self._enqueued + number)
        batch, output = f"soak-{rows.start:06d}", (self._folder / "out").as_uri()
        self._ledger.open_batch(batch, output=output, source="file:///soak.csv")
        jobs = [RenderJob.create(self._parameters(row), batch=batch, row=row + 1, output=output) for row in rows]
        self._ledger.enqueue(jobs)
        self._enqueued += number
        self._open[batch] = number

    def _parameters(self, row: int) -> RenderParameters:
        plan, number = self._plan, row % self._plan.distinct
        # Where no picture is used twice, its name is, once its first user has ended.
        path = self._folder / f"{number % (4 * self._ahead) if plan.distinct == plan.jobs else number:06d}.png"
        if number == row:
            draw(path, plan, number)
        return RenderParameters(
            image=path.as_uri(),
            prompt=f"a painting of thing number {row % plan.prompts}, oil on canvas, soft light",
            image_resolution=plan.side,
            ddim_steps=plan.steps,
            seed=row,
        )


def draw(path: Path, plan: Plan, number: int) -> None:
    """Write a picture of rectangles that no other number has."""
    rng = np.random.default_rng(number)
    width, height = plan.picture
    image = Image.new("RGBA", plan.picture, tuple(rng.integers(0, 256, 3).tolist()))
    for _ in range(12):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        colour = tuple(rng.integers(0, 256, 4).tolist())
        image.paste(colour, (x, y, min(width, x + width // 3), min(height, y + height // 3)))
    # Another name first: a worker may be reading the picture that had this name before.
    with replacing(path) as scratch:
        image.convert(plan.mode).save(scratch, "PNG", compress_level=1)


@contextmanager
def worker(plan: Plan, folder: Path, url: str) -> Iterator[WorkerProcess]:
    """A worker that waits for jobs."""
    environment = {
        "RENDER_REDIS_URL": url,
        "RENDER_ENGINE_DIR": plan.engines,
        "RENDER_OUTPUT_URI": str(folder / "out"),
        "RENDER_ALLOW_FOLDERS": str(folder),
        "RENDER_JOBS_IN_FLIGHT": str(plan.in_flight),
    }
    with WorkerProcess(environment=environment, log=folder / "worker.log", own_session=True) as process:
        process.wait_until_started(seconds=START_SECONDS)
        yield process
        process.stop(seconds=STOP_SECONDS)


def run(plan: Plan, folder: Path) -> dict[str, object]:
    """Feed and sample until all jobs are done or the time is over; returns the figures."""
    with EmbeddedRedis() as server, worker(plan, folder, server.url) as process:
        feed = Feed(plan, folder, Ledger(redis.Redis.from_url(server.url, decode_responses=True)))
        memory = Memory(process.pid)
        idle = memory.sample(0)
        began = memory.cpu_seconds
        watch(plan, feed, memory)
        seconds, peak, used = memory.samples[-1].seconds, memory.peak, memory.cpu_seconds - began
    if plan.plot is not None:
        plan.plot.write_text(chart(plan, memory))
    growth = Growth.after(memory.samples, plan.settle)
    done = memory.samples[-1].done
    return {
        "jobs": done,
        "jobs_per_second": round(done / max(0.1, seconds), 1),
        "cpu_seconds_per_job": round(used / max(1, done), 4),
        "idle_mib": idle.resident,
        "peak_above_idle_mib": round(peak - idle.resident, 1),
        "settle": plan.settle,
        **(growth.figures() if growth else {"flat": None}),
        "samples": thinned(memory.samples),
    }


def watch(plan: Plan, feed: Feed, memory: Memory) -> None:
    """One sample every half second while there is work."""
    end = memory.began + plan.minutes * 60
    said = 0.0
    while True:
        now = time.monotonic()
        if now < end:
            feed.top_up()
        sample = memory.sample(feed.done)
        if now - said > SAY_SECONDS:
            said = now
            say(f"{sample.done:,} jobs, {sample.seconds:.0f} s: {sample.resident} MiB, {sample.anonymous} anonymous")
        if sample.done == (plan.jobs if now < end else feed.enqueued) or now > end + LAST_JOBS_SECONDS:
            return
        time.sleep(POLL_SECONDS)


def chart(plan: Plan, memory: Memory) -> str:
    """The samples as SVG."""
    samples = thinned(memory.samples)
    name = plan.engines if plan.engines.startswith("fake:") else Path(plan.engines).name
    return line_chart(
        {
            "resident": [(done, resident) for done, _, resident, _ in samples],
            "anonymous": [(done, anonymous) for done, _, _, anonymous in samples],
        },
        title=f"Memory of one worker: {name}, {plan.side} pixels, steps: {plan.steps}, every prompt and picture new",
        x_label="jobs done",
        y_label="MiB",
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engines", default="fake:", help="an engine set's folder (default: fake:)")
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--side", type=int, default=256, help="of the results, in pixels (256)")
    parser.add_argument("--steps", type=int, default=1, help="DDIM steps of a job (1)")
    parser.add_argument("--in-flight", type=int, default=16, help="jobs that the worker holds at once (16)")
    parser.add_argument("--picture", metavar="WxH", help="size of the inputs in pixels (default: as the results)")
    parser.add_argument("--mode", default="RGB", help="of the inputs: RGB, RGBA, L (RGB)")
    parser.add_argument("--distinct", type=int, help="so many different pictures (default: one a job)")
    parser.add_argument("--prompts", type=int, help="so many different prompts (default: one a job)")
    parser.add_argument("--minutes", type=float, default=600.0, help="enqueue no more after this time")
    parser.add_argument("--settle", type=int, default=1000, help="jobs before growth counts (1000)")
    parser.add_argument("--plot", type=Path, help="write the samples as SVG here")
    return parser


def main() -> int:
    """Run and print; 1 where memory was not flat."""
    plan = Plan.of(parser().parse_args())
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        figures = run(plan, Path(folder))
    shown = {"engines": Path(plan.engines).name, "side": plan.side, "steps": plan.steps, "in_flight": plan.in_flight}
    shown |= {"picture": "x".join(map(str, plan.picture)), "mode": plan.mode}
    shown |= {"distinct": plan.distinct, "prompts": plan.prompts}
    hardware = cpu() | {"load": round(os.getloadavg()[0], 1)}
    print(json.dumps({"bench": "soak", **shown, **figures, "hardware": hardware, "versions": versions(*PACKAGES)}))
    return 0 if figures["flat"] is not False else 1


if __name__ == "__main__":
    sys.exit(main())
