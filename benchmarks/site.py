"""The whole path, for benchmarks: an embedded Redis, real worker processes, a CSV in and files out."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import redis
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from jobs.job import RenderJob, RenderParameters
from jobs.ledger.ledger import Ledger
from tools import ROOT
from tools.worker_process import WorkerNotStarted, WorkerProcess

STOP_SECONDS = 60
WORKER_START_SECONDS = 120


class Site:
    """A folder, the Redis at `url`, and workers that wait for jobs."""

    def __init__(self, folder: Path, url: str, *, engines: Path, settings: Mapping[str, str]) -> None:
        """`settings` are more variables of producer and worker; pictures are in `folder`, results in `folder`/out."""
        self.folder = folder
        self._workers: list[_Worker] = []
        self._started = 0  # workers, which each have a log of their own
        # In the last batch, from the start of `producer submit` to the start of its first job.
        self.first_seconds = 0.0
        self.environment = os.environ | {
            "RENDER_REDIS_URL": url,
            "RENDER_ENGINE_DIR": str(engines),
            "RENDER_OUTPUT_URI": str(folder / "out"),
            "RENDER_ALLOW_FOLDERS": str(folder),
            **settings,
        }
        self.ledger = Ledger(redis.Redis.from_url(url, decode_responses=True))

    @contextmanager
    def worker(self, *, gpu: int | None = None) -> Iterator[None]:
        """Run one more worker process, ready for jobs; with `gpu` it sees only that one.

        Raises:
            SystemExit: it did not start; the text holds the end of its log.
        """
        number, self._started = self._started, self._started + 1
        environment = self.environment | {"RENDER_METRICS_PORT": "0"}  # a free one; the worker logs which
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
        log = self.folder / f"worker{number}.log"
        process = WorkerProcess(environment=environment, log=log, name=f"w{number}")
        worker = _Worker(process)
        self._workers.append(worker)
        try:
            process.wait_until_started(seconds=WORKER_START_SECONDS)
            yield
        except WorkerNotStarted as error:
            raise SystemExit(str(error)) from None
        finally:
            process.stop(seconds=STOP_SECONDS)
            self._workers.remove(worker)

    def cpu_seconds(self) -> float:
        """CPU seconds of the worker processes so far, all their threads together. Linux only."""
        return sum(worker.cpu_seconds() for worker in self._workers)

    def metrics(self) -> Counter[str]:
        """The workers' metrics, summed over them: 'render_images_total', 'render_steps_total 8' (by label), ..."""
        return sum((worker.metrics() for worker in self._workers), Counter[str]())

    def render(self, jobs: Sequence[RenderJob]) -> tuple[float, list[np.ndarray]]:
        """Seconds from the start of `producer submit` to the last job's record in the ledger, and the pictures."""
        batch = jobs[0].batch
        path = self.folder / f"{batch}.csv"
        write_csv(path, jobs)
        began = time.time()  # results carry the wall clock
        command = [sys.executable, "-m", "producer", "submit", str(path), "--batch", batch]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"producer submit ended with {done.returncode}:\n{done.stderr}")
        while self.ledger.counts(batch).done < len(jobs):
            counts = self.ledger.counts(batch)
            if counts.failed:
                raise SystemExit(f"{counts.failed} jobs failed: {next(self.ledger.results(batch)).error}")
            time.sleep(0.2)
        results = sorted(self.ledger.results(batch), key=lambda result: result.row)
        ends = [result.finished_at or 0.0 for result in results]
        starts = [end - sum(result.seconds.values()) for end, result in zip(ends, results, strict=True)]
        self.first_seconds = min(starts) - began
        pictures = [np.asarray(Image.open(result.samples[0].removeprefix("file://"))) for result in results]
        return max(ends) - began, pictures


@dataclass(frozen=True)
class _Worker:
    """A worker process, as a benchmark measures it."""

    process: WorkerProcess

    def cpu_seconds(self) -> float:
        # After the name, which may hold anything, in brackets: utime and stime are the 12th and 13th field.
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> Counter[str]:
        (listens,) = self.process.events("health_listens")
        with urllib.request.urlopen(f"http://127.0.0.1:{listens['port']}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        return Counter({" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples})


def write_pictures(folder: Path, *, count: int, shape: tuple[int, int]) -> list[Path]:
    """Write `count` pictures of this height and width in pixels: the example photographs, again and again."""
    height, width = shape
    subprocess.run([sys.executable, "examples/photos.py", "--out", str(folder / "photos")], cwd=ROOT, check=True)
    originals = sorted((folder / "photos").iterdir())
    paths = [folder / f"{n}.png" for n in range(count)]
    for path, original in zip(paths, originals, strict=False):
        with Image.open(original) as image:
            image.convert("RGB").resize((width, height), Image.Resampling.LANCZOS).save(path)
    for n, path in enumerate(paths[len(originals) :]):
        shutil.copyfile(paths[n % len(originals)], path)
    return paths


def make_jobs(
    pictures: Sequence[Path], *, batch: str, output: Path, size: int | None = None, steps: int, spread: int = 1
) -> list[RenderJob]:
    """One job a picture, each with its own prompt and seed, of `steps` to `steps` + `spread` - 1 DDIM steps.

    `size` is the short side of what is rendered, in pixels; without it, that of the picture.
    """
    return [
        RenderJob.create(
            RenderParameters(
                image=str(path),
                prompt=f"a painting of thing number {row}, oil on canvas",
                image_resolution=_short_side(path) if size is None else size,
                ddim_steps=steps + row % spread,
                seed=row,
            ),
            batch=batch,
            row=row,
            output=str(output),
        )
        for row, path in enumerate(pictures, start=1)
    ]


def _short_side(path: Path) -> int:
    with Image.open(path) as image:
        return min(image.size)


def write_csv(path: Path, jobs: Sequence[RenderJob]) -> None:
    """Write the jobs as the CSV that a person would submit."""
    lines = [
        f'{job.parameters.image},"{job.parameters.prompt}",{job.parameters.image_resolution},'
        f"{job.parameters.ddim_steps},{job.seed},{job.parameters.model or ''}"
        for job in jobs
    ]
    path.write_text("\n".join(["image,prompt,image_resolution,ddim_steps,seed,model", *lines, ""]))
