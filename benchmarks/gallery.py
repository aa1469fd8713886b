"""Measure `producer gallery` and `producer status` against a real Redis server and print one JSON line.

    python -m benchmarks.gallery [--rows 50000] [--pictures 300] [--distinct] [--copies] [--batches 200]

Every row is done: its result and edges are PNGs of 512x512 pixels with the text chunks that workers write, its sidecar
lies beside them, and the ledger has its record. The pixels are those of `--pictures` pictures, which are drawn once.
Equal pictures share a small copy, so `--distinct` gives each result a chunk that keeps it from being equal to another.
Inputs are JPEGs of 1200x900 pixels that rows share, as in a batch of many prompts.

The gallery is made twice, by a process of its own on two cores: from nothing, and when nothing is new. Peak memory is
compared with that of a tenth of the rows. `producer status` of `--batches` batches is timed on a terminal, from
outside.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pty
import random
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageFilter

from benchmarks.measuring import cpu, versions
from jobs.job import RenderJob, RenderParameters, RenderResult
from jobs.ledger.chunks import chunks
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis

SIDE = 512
HEAD = 33  # bytes of a PNG's signature and first chunk
CORES = 2
STATUS_RUNS = 5
JOBS_OF_A_BATCH = 10
GREY = 127


class Drawn(NamedTuple):
    """One picture as PNG without texts: the result and its edges."""

    result: bytes
    edges: bytes


def draw(number: int) -> Drawn:
    """A picture about as hard to compress as a photograph, the same for the same number."""
    chance = random.Random(number)
    coarse = Image.new("RGB", (16, 16))
    coarse.putdata([(chance.randrange(256), chance.randrange(256), chance.randrange(256)) for _ in range(256)])
    smooth = coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    grain = Image.effect_noise((SIDE, SIDE), 24).filter(ImageFilter.GaussianBlur(0.6)).convert("RGB")
    picture = Image.blend(smooth, grain, 0.25)
    edges = smooth.convert("L").filter(ImageFilter.FIND_EDGES).point(lambda value: 255 if value > 4 else 0)
    return Drawn(png(picture), png(edges))


def png(picture: Image.Image) -> bytes:
    """As workers encode it."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def with_texts(data: bytes, **texts: str) -> bytes:
    """The PNG with further text chunks."""
    chunks = b""
    for name, text in texts.items():
        body = b"tEXt" + name.encode() + b"\0" + text.encode("latin-1")
        chunks += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data[:HEAD] + chunks + data[HEAD:]


def jobs_of(batch: str, rows: int, folder: Path, inputs: int) -> Iterator[RenderJob]:
    """Jobs with prompts of a usual length, on inputs that they share."""
    for row in range(1, rows + 1):
        prompt = f"a painting of thing number {row}, oil on canvas, soft light, in the style of an old master"
        image = (folder / "inputs" / f"{row % inputs:05d}.jpg").as_uri()
        parameters = RenderParameters(image=image, prompt=prompt)
        yield RenderJob.create(parameters, batch=batch, row=row, output=(folder / "renders").as_uri())


def finished(job: RenderJob) -> RenderResult:
    """The record of a job that is done."""
    stages = ("fetch", "prepare", "render", "encode", "upload")
    return RenderResult(
        **{"id": job.id, "batch": job.batch, "row": job.row, "seed": job.seed, "state": "done"},
        image=job.parameters.image,
        prompt=job.parameters.prompt,
        samples=(job.sample_uri(0),),
        canny=job.canny_uri,
        width=SIDE,
        height=SIDE,
        attempts=1,
        worker="a-host-of-some-length-1",
        engine_set="0123456789abcdef" * 4,
        model_name="some-model",
        finished_at=time.time(),
        seconds=dict.fromkeys(stages, 0.1234),
    )


def make_batch(ledger: Ledger, folder: Path, batch: str, *, rows: int, drawn: list[Drawn], distinct: bool) -> None:
    """Write pictures and sidecars, and enter the jobs into the ledger as done."""
    renders = folder / "renders" / batch
    renders.mkdir(parents=True)
    ledger.open_batch(batch, output=(folder / "renders").as_uri(), source=(folder / f"{batch}.csv").as_uri())
    jobs = jobs_of(batch, rows, folder, inputs=len(drawn))
    for chunk in chunks(jobs):
        results = {job.id: finished(job) for job in chunk}
        for job in chunk:
            text = json.dumps(job.parameters.model_dump() | {"job": job.id, "seed": job.seed}, sort_keys=True)
            picture = drawn[job.row % len(drawn)]
            own = {"comment": job.id} if distinct else {}
            (renders / f"{job.id}_0.png").write_bytes(with_texts(picture.result, render=text, **own))
            (renders / f"{job.id}_canny.png").write_bytes(with_texts(picture.edges, render=f'{{"job": "{job.id}"}}'))
            (renders / f"{job.id}.json").write_text(results[job.id].model_dump_json())
        ledger.enqueue(chunk, finished=results)


def make_inputs(folder: Path, number: int) -> None:
    """Write the pictures that rows share."""
    (folder / "inputs").mkdir()
    for picture in range(number):
        shape = Image.effect_noise((1200, 900), 60).filter(ImageFilter.GaussianBlur(3)).convert("RGB")
        shape.save(folder / "inputs" / f"{picture:05d}.jpg", quality=90)


# The command, which says at its end what it took: a child's peak as its parent sees it includes the parent.
COMMAND = """
import os, sys
from producer.cli import app
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-int(sys.argv.pop(1)):])
code = app(standalone_mode=False)
peak = next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]
print(peak, sum(os.times()[:2]))
sys.exit(code)
"""


class Ran(NamedTuple):
    """One run of the command: its JSON line, its seconds, those of a processor and its peak memory."""

    record: dict[str, object]
    seconds: float
    cpu_seconds: float
    peak_mib: float


def gallery(url: str, batch: str, out: Path, options: list[str]) -> Ran:
    """Run the command on two cores."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, str(CORES), "gallery", batch, "--out", str(out), *options],
        cwd=ROOT,
        env=os.environ | {"RENDER_REDIS_URL": url},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
    )
    seconds = time.monotonic() - began
    record, took = done.stdout.splitlines()
    peak, cpu_seconds = took.split()
    return Ran(json.loads(record), seconds, float(cpu_seconds), round(int(peak) / 1024, 1))


def status_seconds(url: str) -> float:
    """The time of `producer status` on a terminal, as a person waits for it."""
    master, slave = pty.openpty()
    reader = threading.Thread(target=_drain, args=(master,), daemon=True)
    reader.start()
    began = time.monotonic()
    environment = os.environ | {"RENDER_REDIS_URL": url, "TERM": "xterm", "COLUMNS": "100"}
    subprocess.run(
        [sys.executable, "-m", "producer", "status"], cwd=ROOT, env=environment, stdout=slave, stderr=slave, check=True
    )
    seconds = time.monotonic() - began
    os.close(slave)
    reader.join()
    os.close(master)
    return seconds


def _drain(terminal: int) -> None:
    try:
        while os.read(terminal, 2**16):
            pass
    except OSError:
        return  # the other end is closed


def make_batches(ledger: Ledger, folder: Path, number: int) -> None:
    """Enter further batches into the ledger, some of them done."""
    for batch in range(number):
        name = f"nightly-{batch:03d}-of-a-name-that-is-rather-long"
        ledger.open_batch(name, output=(folder / "renders").as_uri(), source=(folder / "jobs.csv").as_uri())
        jobs = list(jobs_of(name, JOBS_OF_A_BATCH, folder, inputs=1))
        done = jobs if batch % 10 else jobs[:4]
        ledger.enqueue(jobs, finished={job.id: finished(job) for job in done})


def measure(options: argparse.Namespace, folder: Path) -> dict[str, object]:
    """Make the batches, then their galleries."""
    made: dict[str, object] = {}
    with EmbeddedRedis() as server:
        ledger = Ledger.connect(Settings(redis_url=server.url))
        if options.rows:
            drawn = [draw(number) for number in range(options.pictures)]
            make_inputs(folder, options.pictures)
            for name, rows in (("tenth", max(1, options.rows // 10)), ("whole", options.rows)):
                make_batch(ledger, folder, name, rows=rows, drawn=drawn, distinct=options.distinct)
            made = measure_gallery(options, folder, server.url)
        make_batches(ledger, folder, options.batches)
        if options.batches:
            taken = sorted(status_seconds(server.url) for _ in range(STATUS_RUNS))
            made["status_seconds"] = {"p50": round(statistics.median(taken), 3), "max": round(taken[-1], 3)}
        ledger.close()
    return made


def measure_gallery(options: argparse.Namespace, folder: Path, url: str) -> dict[str, object]:
    """Make the gallery of a tenth of the rows, of all of them, and of all again."""
    flags = [] if options.copies is None else ["--copies" if options.copies else "--no-copies"]
    tenth = gallery(url, "tenth", folder / "gallery-of-a-tenth", flags)
    first = gallery(url, "whole", folder / "gallery", flags)
    again = gallery(url, "whole", folder / "gallery", flags)
    assert first.record["jobs"] == again.record["jobs"] == options.rows, (first, again)
    files = [path for path in (folder / "gallery").rglob("*") if path.is_file()]
    return {
        "pages": first.record["pages"],
        "seconds": round(first.seconds, 2),
        "cpu_seconds": round(first.cpu_seconds, 2),
        "again_seconds": round(again.seconds, 2),
        "again_cpu_seconds": round(again.cpu_seconds, 2),
        "peak_mib": max(first.peak_mib, again.peak_mib),
        "peak_mib_of_a_tenth": tenth.peak_mib,
        "largest_page_mib": round(max(path.stat().st_size for path in files if path.suffix == ".html") / 2**20, 2),
        "gallery_mib": round(sum(path.stat().st_size for path in files) / 2**20, 1),
        "small_copies": sum(path.suffix in (".jpg", ".png") for path in files),
    }


def main() -> None:
    """Measure in a temporary folder; print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the gallery and the status; one JSON line.")
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--pictures", type=int, default=300, help="how many different pictures there are")
    parser.add_argument("--distinct", action="store_true", help="no two results count as the same picture")
    parser.add_argument("--copies", action=argparse.BooleanOptionalAction, help="as `producer gallery` takes it")
    parser.add_argument("--batches", type=int, default=0, help="time `producer status` of so many batches")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-gallery-") as folder:
        measured = measure(options, Path(folder))
    settings = {
        "rows": options.rows,
        "pictures": options.pictures,
        "distinct": options.distinct,
        "copies": options.copies,
    }
    surroundings = {"hardware": cpu() | {"gallery_cores": CORES}, "versions": versions("pillow", "redis", "jinja2")}
    print(json.dumps({"bench": "gallery", **settings, **measured, **surroundings}))


if __name__ == "__main__":
    main()
