"""The whole path, for benchmarks: an embedded Redis, a real worker process, CSVs in and files out."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import redis
from PIL import Image

from jobs.job import RenderJob, RenderParameters
from jobs.ledger import Ledger

ROOT = Path(__file__).resolve().parent.parent
STOP_SECONDS = 60
WORKER_START_SECONDS = 120


class Site:
    """An embedded Redis, and a worker that waits for jobs."""

    def __init__(self, folder: Path, url: str, *, engines: Path, settings: Mapping[str, str]) -> None:
        """`settings` are further variables of producer and worker; pictures lie in `folder`, results in folder/out."""
        self.folder = folder
        self._pid = 0  # of the worker
        self.environment = os.environ | {
            "RENDER_REDIS_URL": url,
            "RENDER_ENGINE_DIR": str(engines),
            "RENDER_OUTPUT_URI": str(folder / "out"),
            "RENDER_ALLOW_FOLDERS": str(folder),
            **settings,
        }
        self.ledger = Ledger(redis.Redis.from_url(url, decode_responses=True))

    @contextmanager
    def worker(self) -> Iterator[None]:
        """A real worker process, ready."""
        log = self.folder / "worker.log"
        command = [sys.executable, "-m", "celery", "-A", "worker", "worker", "--concurrency", "1"]
        with log.open("wb") as file:
            process = subprocess.Popen(command, cwd=ROOT, env=self.environment, stdout=file, stderr=subprocess.STDOUT)
        self._pid = process.pid
        try:
            self._wait_for(process, log)
            yield
        finally:
            process.terminate()
            process.wait(STOP_SECONDS)

    def cpu_seconds(self) -> float:
        """What the worker process has used so far, all its threads together. Linux only."""
        # After the name, which may hold anything, in brackets: utime and stime are the 12th and 13th field.
        fields = Path(f"/proc/{self._pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

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
        pictures = [np.asarray(Image.open(result.samples[0].removeprefix("file://"))) for result in results]
        return max(result.finished_at for result in results) - began, pictures


def write_pictures(folder: Path, *, count: int, side: int) -> list[Path]:
    """Photographs made square, `side` pixels each way."""
    from examples.photos import write_photos

    write_photos(folder / "photos")
    originals = sorted((folder / "photos").iterdir())
    paths = []
    for n in range(count):
        path = folder / f"{n}.png"
        with Image.open(originals[n % len(originals)]) as image:
            image.convert("RGB").resize((side, side), Image.Resampling.LANCZOS).save(path)
        paths.append(path)
    return paths


def make_jobs(pictures: Sequence[Path], *, batch: str, output: Path, size: int, steps: int) -> list[RenderJob]:
    """One a picture, each with a prompt and a seed of its own."""
    return [
        RenderJob.create(
            RenderParameters(
                image=str(path),
                prompt=f"a painting of thing number {row}, oil on canvas",
                image_resolution=size,
                ddim_steps=steps,
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
