"""Measure the producer against a real Redis server and print one JSON line.

    python -m benchmarks.producer [--rows 100000] [--source csv]

`producer submit` runs as its own process on one core (Redis may use the others). It checks and enqueues a file, then
submits the same file again, when everything is queued already. Peak memory is compared with that of a tenth of the
rows: memory is flat if the two are alike. `producer --help` is timed from outside, as a person waits for it.

`--source` is the kind of file: the same rows as CSV, TSV, JSON Lines or Parquet.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import redis

from benchmarks.measuring import cpu, versions
from tools import ROOT
from tools.embedded_redis import EmbeddedRedis

HELP_RUNS = 9


def write_source(path: Path, rows: int) -> None:
    """Write a file of rows, in a process of its own: the kernel counts a parent's memory as its child's peak."""
    subprocess.run([sys.executable, "-m", "benchmarks.source_files", str(path), str(rows)], cwd=ROOT, check=True)


class Ran(NamedTuple):
    """A command's JSON line, its seconds on the clock and on its core, and its peak memory in MiB."""

    record: dict[str, object]
    seconds: float
    cpu_seconds: float
    peak: float


def producer(arguments: list[str], url: str, output: Path) -> Ran:
    """Run the command on one core."""
    core = sorted(os.sched_getaffinity(0))[-1]
    command = [sys.executable, "-m", "producer", *arguments]
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"RENDER_REDIS_URL": url, "RENDER_OUTPUT_URI": str(output)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: os.sched_setaffinity(0, {core}),
    )
    with process.stdout as stdout:  # type: ignore[union-attr]
        printed = stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, f"{command} ended with {process.returncode}"
    seconds = time.monotonic() - began
    return Ran(json.loads(printed), seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def help_seconds() -> list[float]:
    """The seconds of each run of `producer --help`, sorted."""
    times = []
    for _ in range(HELP_RUNS):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "producer", "--help"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        times.append(time.monotonic() - began)
    return sorted(times)


def heavy_imports() -> list[str]:
    """The heavy packages that a new process has loaded after importing all of the producer."""
    code = (
        "import sys, pkgutil, importlib, producer\n"
        "[importlib.import_module(m.name) for m in pkgutil.walk_packages(producer.__path__, 'producer.')"
        " if not m.name.endswith('__main__')]\n"
        "print(*sorted({'torch', 'celery', 'kombu', 'numpy', 'cv2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.split()


def measure(rows: int, source: str, folder: Path) -> dict[str, object]:
    """Measure everything."""
    small, large = folder / f"small.{source}", folder / f"large.{source}"
    write_source(small, rows // 10)
    write_source(large, rows)
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url) as client:
        tenth = producer(["submit", str(small)], server.url, folder / "out")
        client.flushall()
        before = client.info("memory")["used_memory"]
        commands = client.info("stats")["total_commands_processed"]
        first = producer(["submit", str(large)], server.url, folder / "out")
        commands = client.info("stats")["total_commands_processed"] - commands
        after = client.info("memory")["used_memory"]
        again = producer(["submit", str(large)], server.url, folder / "out")
        redis_version = client.info("server")["redis_version"]
    assert first.record["enqueued"] == rows, first
    assert again.record["enqueued"] == 0, again
    helps = help_seconds()
    return {
        "source": source,
        "rows": rows,
        "rows_per_second": round(rows / first.seconds),
        "seconds": round(first.seconds, 2),
        "cpu_seconds": round(first.cpu_seconds, 2),  # the same on a machine that others use too
        "again_rows_per_second": round(rows / again.seconds),
        "peak_mib": round(max(first.peak, again.peak), 1),
        "peak_mib_of_a_tenth": round(tenth.peak, 1),
        "redis_bytes_per_job": round((after - before) / rows),
        "redis_commands_per_job": round(commands / rows, 4),
        "help_seconds": {"p50": round(statistics.median(helps), 3), "max": round(helps[-1], 3)},
        "heavy_imports": heavy_imports(),
        "redis": redis_version,
    }


def main() -> None:
    """Measure in a temporary folder; print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the producer; one JSON line.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--source", choices=("csv", "tsv", "jsonl", "parquet"), default="csv")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-producer-") as folder:
        measured = measure(arguments.rows, arguments.source, Path(folder))
    surroundings = {"hardware": cpu() | {"producer_cores": 1}, "versions": versions("pydantic", "redis", "typer")}
    print(json.dumps({"bench": "producer", **measured, **surroundings}))


if __name__ == "__main__":
    main()
