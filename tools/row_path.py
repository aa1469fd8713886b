"""The functions that one CSV row passes, from `producer submit` to its message in Redis and from there to its picture.

    python -m tools.row_path            numbers and names, in the order of the first call
    python -m tools.row_path --json     one JSON line

Needs the engine set of `make demo`. The real commands render one row while a profiler notes each function of ours that
takes or returns the row: its prompt, alone or in a job, a request, a message or a collection. A method's `self` and
functions within functions do not count.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from tools import ROOT
from tools.demo import ENGINES
from tools.embedded_redis import EmbeddedRedis

PRODUCT = ("jobs", "producer", "worker", "engines")
MARK = "a zeppelin of marzipan"
FILE = "ROW_PATH_FILE"  # the variable that names where a traced process writes
DEPTH = 4
ITEMS = 16
SECONDS = 300.0
PROGRAMS = {"producer": "from producer.cli import main", "celery": "from celery.__main__ import main"}


def carries(value: Any, depth: int = DEPTH) -> bool:
    """Whether the row's prompt is in a value, or in what that holds."""
    if isinstance(value, str):
        return MARK in value
    if isinstance(value, bytes):
        return MARK.encode() in value
    if depth == 0 or value is None or isinstance(value, int | float | type):
        return False
    if isinstance(value, Mapping):
        return any(carries(each, depth - 1) for each in list(value.values())[:ITEMS])
    if isinstance(value, list | tuple):
        return any(carries(each, depth - 1) for each in value[:ITEMS])
    is_ours = type(value).__module__.partition(".")[0] in PRODUCT
    return is_ours and any(carries(each, depth - 1) for each in list(getattr(value, "__dict__", {}).values()))


class Tracer:
    """A profiler that adds a line to a file for each function that carries the row, at its first such call."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._known: set[str] = set()
        self._roots = tuple(f"{ROOT / name}{os.sep}" for name in PRODUCT)

    def __call__(self, frame: FrameType, event: str, value: Any) -> None:
        code = frame.f_code
        if event not in {"call", "return"} or not code.co_filename.startswith(self._roots):
            return
        name = f"{Path(code.co_filename).relative_to(ROOT)} {code.co_qualname}"
        if name in self._known or "<" in code.co_qualname:
            return
        count = code.co_argcount + code.co_kwonlyargcount
        arguments = [frame.f_locals.get(each) for each in code.co_varnames[:count] if each not in {"self", "cls"}]
        if carries(value if event == "return" else arguments):
            self._known.add(name)
            with self._file.open("a") as out:
                out.write(f"{name}\n")


def traced(program: str, arguments: list[str]) -> None:
    """Run a program of PROGRAMS in this process, with the profiler in all its threads."""
    tracer = Tracer(Path(os.environ[FILE]))
    names: dict[str, Any] = {}
    exec(PROGRAMS[program], names)  # one of two constants
    sys.argv = [program, *arguments]
    threading.setprofile(tracer)
    sys.setprofile(tracer)
    names["main"]()


def submitted(folder: Path, environment: Mapping[str, str]) -> None:
    """`producer submit` of a CSV with the one row."""
    (folder / "jobs.csv").write_text(f"image,prompt,image_resolution,ddim_steps\ncat.png,{MARK},256,2\n")
    subprocess.run(
        [sys.executable, "-m", "tools.row_path", "--traced", "producer", "submit", folder / "jobs.csv", "--batch", "b"],
        cwd=ROOT, env=environment, check=True, capture_output=True,
    )  # fmt: skip


def rendered(folder: Path, environment: Mapping[str, str]) -> None:
    """A worker, until it has written the picture's sidecar.

    Raises:
        TimeoutError: it has not, after SECONDS.
    """
    command = ["--traced", "celery", "-A", "worker", "worker", "--concurrency", "1"]
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tools.row_path", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
    try:
        deadline = time.monotonic() + SECONDS
        while not list((folder / "out").glob("b/*.json")):
            if process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"no picture:\n{(folder / 'worker.log').read_text(errors='replace')[-2000:]}")
            time.sleep(0.2)
        process.terminate()
        process.wait(SECONDS)
    finally:
        process.kill()
        process.wait()


def row_path(engines: Path) -> dict[str, list[str]]:
    """The functions of both halves of the path, in the order of their first call."""
    found: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as name, EmbeddedRedis() as redis:
        folder = Path(name)
        subprocess.run(
            [sys.executable, "examples/photos.py", "--out", folder], cwd=ROOT, check=True, capture_output=True
        )
        for what, half in {"CSV to message": submitted, "message to picture": rendered}.items():
            file = folder / "functions.txt"
            half(
                folder,
                os.environ
                | {"RENDER_REDIS_URL": redis.url, "RENDER_OUTPUT_URI": (folder / "out").as_uri(), FILE: str(file)}
                | {"RENDER_ENGINE_DIR": str(engines), "RENDER_ALLOW_FOLDERS": str(folder), "HF_HUB_OFFLINE": "1"},
            )
            found[what] = file.read_text().splitlines()
            file.unlink()
    return found


def main() -> None:
    """Parse the options and print, or run one traced program."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--engines", type=Path, default=ENGINES, help="an engine set (default: that of `make demo`)")
    parser.add_argument("--json", action="store_true", help="one JSON line")
    parser.add_argument("--traced", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.traced:
        traced(options.traced[0], options.traced[1:])
        return
    if not options.engines.is_dir():
        parser.error(f"no engine set in {options.engines}: run make demo first, or name one with --engines")
    found = row_path(options.engines)
    if options.json:
        print(
            json.dumps({"row_path": {what: {"functions": len(names), "names": names} for what, names in found.items()}})
        )
        return
    for what, names in found.items():
        print(f"{what}: {len(names)} functions", *(f"    {each}" for each in names), sep="\n")


if __name__ == "__main__":
    main()
