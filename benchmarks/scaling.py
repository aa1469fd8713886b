"""Simulate a day of scaling by KEDA, against a real Redis; prints one JSON line for each target."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import get_args

from benchmarks.line_chart import line_chart, stacked
from benchmarks.measuring import cpu, positive, quantiles, versions
from benchmarks.scaled_object import ScaledObject
from benchmarks.simulated_gpus import Gpu
from benchmarks.simulated_scaling import Counting, JobsDoNotEnd, Outcome, Plan, ScalingSimulation
from benchmarks.submissions import day
from jobs.settings import Settings
from tools.embedded_redis import EmbeddedRedis
from tools.progress import say

NAIVE_TARGET = 16  # one worker's jobs in flight: what one takes without thinking
TIMES_FORMULA = 8
CLOSE_UP_MINUTES = 45
HELP = """
Simulate a day of scaling by KEDA. Prints one JSON line for each target.

Redis, the messages, the ledger, and how workers take, start, finish and give back jobs are real. Simulated are the
time, which jumps from one event to the next; the rendering, which is a pause; the start of a pod, which takes
--cold-start seconds; and KEDA and the HPA, whose rules are in benchmarks/scaling_rules.py. Their numbers are those of
deploy/kubernetes/components/keda/scaledobject.yaml, except for the target and the most GPUs.
"""
EPILOG = """
examples:

  python -m benchmarks.scaling --plot docs/scaling.svg
  python -m benchmarks.scaling --jobs-per-second 9.5 --cold-start 12 --targets 16,114
  python -m benchmarks.scaling --submissions 1 --jobs 1500 --max 100
  python -m benchmarks.scaling --counting queued --jobs-per-second 0.02 --jobs 200 --submissions 5 --targets 100
  python -m benchmarks.scaling --jobs-per-second 0.3 --cold-start 60 --targets 240 --jobs 600 --submissions 1 --kill
"""


def formula_target(gpu: Gpu) -> int:
    """The jobs that one GPU renders while another one starts."""
    return max(1, round(gpu.jobs_per_second * gpu.cold_start_seconds))


def plans(options: argparse.Namespace) -> Iterator[Plan]:
    """One for each target, all with the same submissions."""
    gpu = Gpu(jobs_per_second=options.jobs_per_second, cold_start_seconds=options.cold_start)
    scaled = dataclasses.replace(ScaledObject.load(), most=options.max)
    if options.cooldown is not None:
        scaled = dataclasses.replace(scaled, cooldown_seconds=options.cooldown)
    submissions = tuple(day(options.jobs, options.submissions, seed=options.seed))
    formula = formula_target(gpu)
    for target in options.targets or (NAIVE_TARGET, formula, TIMES_FORMULA * formula):
        this = dataclasses.replace(scaled, target=target)
        yield Plan(this, gpu, submissions, counting=options.counting, kill=options.kill)


def simulate(plan: Plan) -> Outcome:
    """Run one plan on a Redis of its own."""
    with EmbeddedRedis() as server:
        return ScalingSimulation(plan, Settings(redis_url=server.url)).run()


def figures(plan: Plan, outcome: Outcome) -> dict[str, object]:
    """What one plan came to. Hours are GPU hours."""
    record = outcome.record
    hours = {name: round(getattr(record.seconds, name) / 3600, 2) for name in ("paid", "rendering", "starting", "idle")}
    return {
        "target": plan.scaled.target,
        "gpu_hours": hours,
        "gpus_started": record.pods,
        "gpus_at_once": max(number for _, number in record.gpus),
        "wait_seconds": quantiles(outcome.waits, digits=0),
        "batch_seconds": quantiles(outcome.batch_seconds, digits=0),
        "stopped_with_jobs": record.stopped_with_jobs,
        "given_back": record.given_back,
        "rendered_twice": outcome.rendered_twice,
        "done": len(record.done),
    }


def steps(points: Sequence[tuple[float, float]], *, begin: float, end: float, unit: float) -> list[tuple[float, float]]:
    """A stepped line through the values between two times, whose x begins at zero and counts in `unit` seconds."""
    line = []
    for (at, value), (until, _) in pairwise([*points, (end, 0.0)]):
        if until > begin and at < end:
            line += [((max(at, begin) - begin) / unit, value), ((min(until, end) - begin) / unit, value)]
    return line


def plot(results: Sequence[tuple[Plan, Outcome]]) -> str:
    """GPUs over the day, and GPUs and jobs after the largest submission."""
    largest = max(results[0][0].submissions, key=lambda submission: submission.jobs)
    last = max(outcome.record.gpus[-1][0] for _, outcome in results)
    close_up = {"begin": largest.at, "end": largest.at + CLOSE_UP_MINUTES * 60, "unit": 60.0}
    outcomes = {f"target {plan.scaled.target:,}": outcome for plan, outcome in results}
    day_long = {name: steps(each.record.gpus, begin=0.0, end=last, unit=3600.0) for name, each in outcomes.items()}
    gpus = {name: steps(each.record.gpus, **close_up) for name, each in outcomes.items()}
    jobs = {name: steps(each.backlog, **close_up) for name, each in outcomes.items()}
    after = f"minutes after the largest submission, of {largest.jobs:,} jobs"
    return stacked(
        [
            _chart(day_long, "GPUs that run or start, over a day", x_label="hours since midnight", y_label="GPUs"),
            _chart(gpus, "GPUs after the largest submission", x_label=after, y_label="GPUs"),
            _chart(jobs, "Jobs that have not ended, after it", x_label=after, y_label="jobs"),
        ]
    )


def _chart(series: dict[str, list[tuple[float, float]]], title: str, *, x_label: str, y_label: str) -> str:
    return line_chart(series, title=title, x_label=x_label, y_label=y_label, legend_on_top=True)


def run(options: argparse.Namespace) -> list[tuple[Plan, Outcome]]:
    """Simulate each target and print its line."""
    results = []
    asked = {name: value for name, value in vars(options).items() if name not in ("targets", "plot")}
    for plan in plans(options):
        began = time.monotonic()
        outcome = simulate(plan)
        took = round(time.monotonic() - began, 1)
        say(f"target {plan.scaled.target}: {len(outcome.record.done)} jobs in {took} s")
        line = {"bench": "scaling", **figures(plan, outcome), "options": asked, "seconds": took}
        print(json.dumps(line | {"hardware": cpu(), "versions": versions("redis", "kombu")}), flush=True)
        results.append((plan, outcome))
    return results


def targets(text: str) -> list[int]:
    """A type for argparse: whole numbers above zero, comma-separated."""
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"each of {text} must be above zero")
    return values


def parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=HELP, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--targets",
        type=targets,
        help=f"jobs a GPU (default: {NAIVE_TARGET}, the formula's, {TIMES_FORMULA} times that)",
    )
    add("--jobs-per-second", type=positive(float), default=2.4, help="of one GPU (2.4: four pictures a job on an H100)")
    add(
        "--cold-start", type=positive(float), default=180.0, help="seconds from asking for a GPU to its first job (180)"
    )
    add("--jobs", type=positive(int), default=12_000, help="of the day (12000)")
    add("--submissions", type=positive(int), default=40, help="batches of the day (40)")
    add("--seed", type=int, default=7, help="of the times and sizes of the submissions (7)")
    add("--max", type=positive(int), default=16, help="GPUs at once (16)")
    add("--cooldown", type=positive(float), help="seconds without work before the last GPU goes (default: as deployed)")
    add(
        "--counting",
        choices=get_args(Counting),
        default="sum",
        help="what the autoscaler counts (sum; the rest is wrong)",
    )
    add("--kill", action="store_true", help="end GPUs by SIGKILL, without a grace period")
    add("--plot", type=Path, help="write GPUs and jobs over time as SVG here")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate each target; returns the exit code."""
    options = parser().parse_args(arguments)
    if options.jobs < options.submissions:
        parser().error("--jobs must be at least --submissions: each submission has a job")
    if options.plot is not None and (options.plot.is_dir() or not options.plot.parent.is_dir()):
        parser().error(f"--plot must name a file in a folder that exists, not {options.plot}")
    try:
        results = run(options)
    except JobsDoNotEnd as error:
        sys.exit(str(error))
    if options.plot is not None:
        options.plot.write_text(plot(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
