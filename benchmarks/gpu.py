"""Measure rendering on a GPU, from single steps to the whole path, and diffusers beside it; prints one JSON line."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks.command import run
from benchmarks.gpu_loop import Bench
from benchmarks.gpu_path import path, sizes, start
from benchmarks.gpu_plan import Plan
from benchmarks.measuring import cpu, versions
from benchmarks.reference import Diffusers
from benchmarks.site import make_jobs, write_pictures
from engines.engine_set import load_engine_set
from tools.progress import say

EPILOG = """
Examples:

  python examples/random-model/make.py --full-size --out sd15-sized

  engines build --backend triton --model sd15-sized/model --controlnet sd15-sized/controlnet --shape 512x512
  --shape 256x384 --shape 512x768 --max-batch 8 --out sd15-sized/set

  python -m benchmarks.gpu sd15-sized/set --model sd15-sized/model --controlnet sd15-sized/controlnet

  python -m benchmarks.gpu fp8-set --beside fp16-set --model sd15-sized/model --controlnet sd15-sized/controlnet
  --only steps --only path --only compiled_batches
"""
HELP = """
Measure rendering on a GPU with one engine set; prints one JSON line. Shapes and batch sizes are those of the set:
comparisons use its first shape, the mixed trace uses all.

The parts are peak (a large matmul), steps, decode, loop (images/s without queue and files), mixed (10, 20, 30 and 50
steps, all shapes, some in guess mode, against the same work in uniform batches), alike (PSNR of pictures rendered
alone and in a full batch), memory (with and without low_vram), aspects (all shapes in mixed order, against one after
the other), start (a new process, to its first step), sizes (jobs of five shapes through the whole path: on a new
worker, on the same one again, and on one that starts after it and has learnt their sizes), path
(producer, Redis, a worker process, files; with --gpus, one worker on each), diffusers (its pipeline as users call it),
compiled (the same, compiled with CUDA graphs), and diffusers_batches and compiled_batches (both in the set's batches).
Each part runs after a warm-up; the figures are medians.
"""
CALLS = 6  # of diffusers' pipeline, the first two to warm up


def diffusers(plan: Plan, *, compiled: bool, batch: int = 1) -> dict[str, float]:
    """Images per second of diffusers' pipeline with so many pictures a call, eager or compiled."""
    if plan.model is None or plan.controlnet is None:
        return {}
    device = plan.device if plan.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    if compiled and device != "cuda":
        return {}
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as name:
        pictures = write_pictures(Path(name), count=CALLS * batch, shape=plan.shape)
        jobs = make_jobs(pictures, batch="d", output=Path(name), size=min(plan.shape), steps=plan.steps)
        pipeline = Diffusers(plan.model, plan.controlnet, device=device, compiled=compiled)
        warm_up = 2 * batch
        pipeline.render(jobs[:warm_up], batch=batch)
        seconds, _ = pipeline.render(jobs[warm_up:], batch=batch)
    return {"images_per_s": round(len(jobs[warm_up:]) / seconds, 3), "batch": batch}


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
    "diffusers_batches": lambda plan, _: diffusers(plan, compiled=False, batch=plan.max_batch),
    "compiled_batches": lambda plan, _: diffusers(plan, compiled=True, batch=plan.max_batch),
}
PARTS = (*BENCH_PARTS, *OTHER_PARTS)
BESIDE = ("steps", "decode", "loop", "path")  # what --beside measures of the other set


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


def ratios(figures: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, object]:
    """How many times as fast the first set is: each step, the bare loop and the whole path."""
    found: dict[str, object] = {}
    if "steps" in other:
        found["steps"] = {
            shape: {
                images: round(other["steps"][shape][images]["p50_ms"] / step["p50_ms"], 3)
                for images, step in at.items()
                if images in other["steps"][shape]
            }
            for shape, at in figures["steps"].items()
            if shape in other["steps"]
        }
    for name in ("loop", "path"):
        if name in other:
            found[name] = round(figures[name]["images_per_s"] / other[name]["images_per_s"], 3)
    return found


def main(
    engine_set: Annotated[Path, typer.Argument(help="Folder of an engine set.", metavar="SET")],
    model: Annotated[Path | None, typer.Option(help="The set's model, for the comparison with diffusers.")] = None,
    controlnet: Annotated[Path | None, typer.Option(help="Its ControlNet.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="DDIM steps a picture.")] = 20,
    images: Annotated[int, typer.Option(min=1, help="Pictures for mixed.")] = 64,
    jobs: Annotated[int, typer.Option(min=1, help="Jobs through the whole path, and pictures for loop.")] = 400,
    gpus: Annotated[int, typer.Option(min=1, help="For path: one worker first, then one on each of so many.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    beside: Annotated[
        Path | None, typer.Option(help="Another set of these sizes: its steps, decode, loop and path, and ratios.")
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(PARTS)}. Repeatable.")] = None,
) -> None:
    """Parse, measure, print."""
    unknown = sorted(set(only or ()) - set(PARTS))
    if unknown:
        raise typer.BadParameter(f"{unknown[0]!r}; use one of {', '.join(PARTS)}", param_hint="--only")
    plan = Plan(engine_set, model, controlnet, steps, images, jobs, device, tuple(only or PARTS), gpus)
    figures = measure(plan)
    if beside is not None:
        other = measure(replace(plan, engine_set=beside, parts=tuple(name for name in plan.parts if name in BESIDE)))
        figures |= {"beside": other, "over_beside": ratios(figures, other)}
    packages = ("torch", "diffusers", "transformers", "celery", "redis")
    print(
        json.dumps({"bench": "gpu", "ddim_steps": steps, **figures, "hardware": cpu(), "versions": versions(*packages)})
    )


if __name__ == "__main__":
    run(main, help=HELP, epilog=EPILOG)
