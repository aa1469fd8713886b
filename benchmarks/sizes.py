"""Many picture sizes: what they cost a worker that starts, and one that has drawn them all. For `benchmarks.gpu`."""

from __future__ import annotations

import cProfile
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.site import Site, make_jobs, write_pictures
from tools.embedded_redis import EmbeddedRedis
from tools.progress import say
from worker.render.loop import RenderLoop
from worker.render.request import ImageSpec, Shape

IN_FLIGHT = 32  # jobs, as `benchmarks.gpu --only path` sets it
SEED = 7
# What a worker learnt in a run, from its metrics.
COUNTED = (
    "render_graph_captures_total step",
    "render_graph_captures_total idle",
    "render_graph_capture_seconds_total step",
    "render_graph_capture_seconds_total idle",
    "render_padded_sample_steps_total",
    "render_sample_steps_total",
)


def fresh_and_warm(
    engine_set: Path, *, shapes: Sequence[Shape], device: str, jobs: int, steps: int
) -> dict[str, object]:
    """Jobs of several sizes in mixed order: on a new worker, on the same one again, and on one that starts after it.

    The third worker learns the sizes from Redis and from RENDER_CACHE_DIR.
    """
    with EmbeddedRedis() as server, tempfile.TemporaryDirectory(prefix="bench-sizes-") as name:
        folder = Path(name)
        settings = {
            "RENDER_DEVICE": device,
            "RENDER_JOBS_IN_FLIGHT": str(IN_FLIGHT),
            "RENDER_CACHE_DIR": str(folder / "cache"),
        }
        site = Site(folder, server.url, engines=engine_set, settings=settings)
        pictures = _pictures(folder, shapes, count=jobs)
        figures: dict[str, object] = {"shapes": [f"{height}x{width}" for height, width in shapes], "jobs": jobs}
        with site.worker():
            figures["fresh"] = fresh = _run(site, pictures, batch="fresh", steps=steps)
            figures["warm"] = warm = _run(site, pictures, batch="warm", steps=steps)
        with site.worker():
            figures["second_worker"] = second = _run(site, pictures, batch="second", steps=steps)
        figures["fresh_over_warm"] = round(fresh["images_per_s"] / warm["images_per_s"], 3)
        figures["second_over_warm"] = round(second["images_per_s"] / warm["images_per_s"], 3)
        return figures


def _run(site: Site, pictures: Sequence[Path], *, batch: str, steps: int) -> dict[str, float]:
    before = site.metrics()
    seconds, _ = site.render(make_jobs(pictures, batch=batch, output=site.folder / "out", steps=steps))
    counted = site.metrics() - before
    # The sizes of the batches show whether graphs of the right ones were captured.
    sizes = {key.rpartition(" ")[2]: n for key, n in counted.items() if key.startswith("render_steps_total")}
    figures = {"images_per_s": round(len(pictures) / seconds, 3), "seconds": round(seconds, 2)}
    figures["busy_seconds"] = round(counted["render_busy_seconds_total"], 2)
    figures |= {name: round(counted[name], 2) for name in COUNTED} | {f"steps of {n}": sizes[n] for n in sizes}
    say(f"{batch}: {json.dumps(figures)}")
    return figures


def _pictures(folder: Path, shapes: Sequence[Shape], *, count: int) -> list[Path]:
    """The example photographs at these sizes, in mixed order, as many of each."""
    squares = folder / "squares"
    squares.mkdir()
    short = min(map(min, shapes))
    originals = write_pictures(squares, count=8, shape=(short, short))
    ready = {}
    for height, width in shapes:
        for number, original in enumerate(originals):
            path = ready[(height, width), number] = folder / f"{height}x{width}-{number}.png"
            with Image.open(original) as image:
                image.resize((width, height), Image.Resampling.LANCZOS).save(path)
    order = [shapes[n % len(shapes)] for n in range(count)]
    random.Random(SEED).shuffle(order)
    paths = [squares / f"job{n}.png" for n in range(count)]
    for n, (path, shape) in enumerate(zip(paths, order, strict=True)):
        shutil.copyfile(ready[shape, n % len(originals)], path)
    return paths


def mixed_and_sorted(
    loop: RenderLoop, request: Callable[[Shape], ImageSpec], *, shapes: Sequence[Shape], each: int
) -> dict[str, object]:
    """Images per second of a warm loop: sizes in mixed order, and one size after the other.

    Mixed twice: with IN_FLIGHT samples at a time, as a worker has them, and with all of them queued at once.
    """
    mixed = [shape for shape in shapes for _ in range(each)]
    random.Random(SEED).shuffle(mixed)
    by_size = [shape for shape in shapes for _ in range(each)]
    orders = {"mixed": (mixed, IN_FLIGHT), "mixed_queued": (mixed, len(mixed)), "sorted": (by_size, IN_FLIGHT)}
    for order, in_flight in (orders["mixed"], orders["sorted"]):
        _drawn(loop, map(request, order), in_flight)
        _warm(loop)
    figures: dict[str, object] = {"images": len(mixed), "shapes": len(shapes)}
    rates = {}
    for name, (order, in_flight) in orders.items():
        before = loop.stats()
        rates[name] = len(mixed) / _drawn(loop, map(request, order), in_flight)
        after = loop.stats()
        figures[name] = {
            "images_per_s": round(rates[name], 3),
            "captures": after.captures["step"].number - before.captures["step"].number,
            "padded_sample_steps": after.padded_sample_steps - before.padded_sample_steps,
            "steps": dict(sorted((Counter(after.batch_sizes) - Counter(before.batch_sizes)).items())),
        }
        _warm(loop)
    figures["mixed_over_sorted"] = round(rates["mixed"] / rates["sorted"], 3)
    figures["mixed_queued_over_sorted"] = round(rates["mixed_queued"] / rates["sorted"], 3)
    captures = loop.stats().captures
    figures["captures_in_all"] = {cause: [one.number, round(one.seconds, 2)] for cause, one in captures.items()}
    return figures


def seconds_by_function(call: Callable[..., object], *arguments: object) -> dict[str, object]:
    """How long a call takes on the host, and the functions, Python's or C's, that take most of it by themselves."""
    profile = cProfile.Profile()
    began = time.perf_counter()
    profile.runcall(call, *arguments)
    figures: dict[str, object] = {"seconds": round(time.perf_counter() - began, 3)}
    entries = sorted(profile.getstats(), key=lambda entry: -entry.inlinetime)[:12]
    for entry in entries:
        code = entry.code
        name = code if isinstance(code, str) else f"{Path(code.co_filename).name}:{code.co_name}"
        figures[name] = [entry.callcount, round(entry.inlinetime, 3)]
    return figures


def _drawn(loop: RenderLoop, requests: Iterable[ImageSpec], in_flight: int) -> float:
    """Seconds to draw these, of which so many are in the loop at a time."""
    began = time.perf_counter()
    running: list[Future[np.ndarray]] = []
    waiting = list(requests)[::-1]
    while waiting or running:
        # As the worker does: RenderService.parked_jobs.
        while waiting and len(running) < max(in_flight, in_flight // 2 + loop.batch_places()):
            running.append(loop.submit(waiting.pop()))
        loop.step()
        for future in [one for one in running if one.done()]:
            future.result()
            running.remove(future)
    return time.perf_counter() - began


def _warm(loop: RenderLoop) -> None:
    """What a worker's loop does when it is idle."""
    while loop.step() or loop.warm():
        pass
