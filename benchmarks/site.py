"""The whole path, for benchmarks: an embedded Redis, real worker processes, CSVs in and files out."""

from __future__ import annotations

import os
import shutil
import socket
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

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 60
WORKER_START_SECONDS = 120


class Site:
    """An embedded Redis, and a worker that waits for jobs."""

    def __init__(self, folder: Path, url: str, *, engines: Path, settings: Mapping[str, str]) -> None:
        """`settings` are further variables of producer and worker; pictures lie in `folder`, results in folder/out."""
        self.folder = folder
        self._workers: list[_Worker] = []
        # Of the batch rendered last: from the start of `producer submit` to that of its first job.
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
        """A real worker process, ready; one more where there are some. `gpu`: the one that it may see."""
        number, port = len(self._workers), free_port()
        log = self.folder / f"worker{number}.log"
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "worker",
            "worker",
            "--concurrency",
            "1",
            "-n",
            f"w{number}@%h",
        ]
        environment = self.environment | {"RENDER_METRICS_PORT": str(port)}
        if gpu is not None:
            environment["CUDA_VISIBLE_DEVICES"] = str(gpu)
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
        worker = _Worker(process.pid, port)
        self._workers.append(worker)
        try:
            self._wait_for(process, log)
            yield
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)
            self._workers.remove(worker)

    def cpu_seconds(self) -> float:
        """What the worker processes have used so far, all their threads together. Linux only."""
        return sum(worker.cpu_seconds() for worker in self._workers)

    def metrics(self) -> Counter[str]:
        """What the workers count, summed over them: 'render_images_total', 'render_steps_total 8' (by label), ..."""
        return sum((worker.metrics() for worker in self._workers), Counter[str]())

    def _wait_for(self, process: subprocess.Popen[bytes], log: Path) -> None:
        until = time.monotonic() + WORKER_START_SECONDS
        while "worker_started" not in log.read_text():
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"the worker did not start:\n{log.read_text()[-2000:]}")
            time.sleep(0.2)

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
        self.first_seconds = min(result.finished_at - sum(result.seconds.values()) for result in results) - began
        pictures = [np.asarray(Image.open(result.samples[0].removeprefix("file://"))) for result in results]
        return max(result.finished_at for result in results) - began, pictures


@dataclass(frozen=True)
class _Worker:
    """One process that runs, and the port of its metrics."""

    pid: int
    port: int

    def cpu_seconds(self) -> float:
        # After the name, which may hold anything, in brackets: utime and stime are the 12th and 13th field.
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def metrics(self) -> Counter[str]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
        samples = [sample for family in families for sample in family.samples]
        return Counter({" ".join([sample.name, *sample.labels.values()]): sample.value for sample in samples})


def free_port() -> int:
    """A port on loopback that nobody has."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def write_pictures(folder: Path, *, count: int, side: int) -> list[Path]:
    """Photographs made square, `side` pixels each way; there are a few, which take turns."""
    from examples.photos import write_photos

    write_photos(folder / "photos")
    originals = sorted((folder / "photos").iterdir())
    paths = [folder / f"{n}.png" for n in range(count)]
    for path, original in zip(paths, originals, strict=False):
        with Image.open(original) as image:
            image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(path)
    for n, path in enumerate(paths[len(originals) :]):
        shutil.copyfile(paths[n % len(originals)], path)
    return paths


def make_jobs(
    pictures: Sequence[Path], *, batch: str, output: Path, size: int, steps: int, spread: int = 1
) -> list[RenderJob]:
    """One a picture, each with a prompt and a seed of its own; `steps` of them, or up to `spread` - 1 more."""
    return [
        RenderJob.create(
            RenderParameters(
                image=str(path),
                prompt=f"a painting of thing number {row}, oil on canvas",
                image_resolution=size,
                ddim_steps=steps + row % spread,
                seed=row,
            ),
            batch=batch,
            row=row,
            output=str(output),
        )
        for row, path in enumerate(pictures, start=1)
    ]


def write_csv(path: Path, jobs: Sequence[RenderJob]) -> None:
    """The jobs as a person would hand them in."""
    lines = [
        f'{job.parameters.image},"{job.parameters.prompt}",{job.parameters.image_resolution},'
        f"{job.parameters.ddim_steps},{job.seed}"
        for job in jobs
    ]
    path.write_text("\n".join(["image,prompt,image_resolution,ddim_steps,seed", *lines, ""]))
