"""`make demo`: run the whole system on this machine, with its own commands and processes.

The steps are photographs, engine set, Redis, worker, `producer submit --wait`, results and a page. Each step skips what
is already there, and only processes that were started here are stopped. A second run renders no finished row again:
Redis keeps its data in .demo/, and the ledger knows what is done.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

from tools import ROOT
from tools.embedded_redis import EmbeddedRedis, RedisNotStarted
from tools.progress import say
from tools.worker_process import WorkerProcess

STATE = ROOT / ".demo"
OUTPUT = ROOT / "demo-output"
ENGINES = STATE / "engine-set"
MODEL = ROOT / "examples" / "demo-model" / "weights"
BATCH = "demo"
# One range of sizes: every photograph's short side becomes 256 pixels, whatever its proportions.
SHAPES = "256x256:512x512"
STOP_SECONDS = 60


class DemoFailed(Exception):
    """A step ended with an error; the sentence says where to look."""


def main() -> int:
    """Run every step; returns the exit code."""
    try:
        say("1/5  photographs")
        run("examples/photos.py")
        say("2/5  engine set (built once; later runs only check its manifest)")
        build_engines()
        with EmbeddedRedis(STATE / "redis") as server:
            environment = os.environ | {
                "RENDER_REDIS_URL": server.url,
                "RENDER_OUTPUT_URI": str(OUTPUT),
                "RENDER_ALLOW_FOLDERS": str(ROOT / "examples"),
                "RENDER_ENGINE_DIR": str(ENGINES),
                "RENDER_QUEUE": "demo",
            }
            render(environment)
            report(environment)
    except (DemoFailed, RedisNotStarted) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ndemo: stopped; run `make demo` again and it goes on where it was", file=sys.stderr)
        return 130
    print(OUTPUT / "index.html")
    return 0


def build_engines() -> None:
    """Build the demo's engine set, unless its manifest says that it is up to date."""
    arguments = ["--model", str(MODEL / "model"), "--controlnet", str(MODEL / "controlnet")]
    run("-m", "engines.cli", "build", *arguments, "--shape", SHAPES, "--max-batch", "8",
        "--backend", "onnxruntime", "--precision", "fp32", "--out", str(ENGINES))  # fmt: skip


def render(environment: dict[str, str]) -> None:
    """Queue the rows, and start a worker only if there is something left to render."""
    submit = ["-m", "producer", "submit", "examples/jobs.csv", "--batch", BATCH]
    say("3/5  submit")
    enqueued = json.loads(run(*submit, environment=environment, capture=True))
    already = enqueued["already"]
    if not enqueued["enqueued"] and not already["queued"] + already["running"]:
        say("4/5  everything is rendered already")
        return
    say("4/5  render")
    log = STATE / "worker.log"
    worker = WorkerProcess(environment=environment, log=log, own_session=True)
    try:
        waiting = subprocess.Popen(
            [sys.executable, *submit, "--wait"], cwd=ROOT, env=environment, stdout=subprocess.PIPE
        )
        while waiting.poll() is None:
            if not worker.alive:  # nothing else would ever end the wait
                waiting.send_signal(signal.SIGINT)
                waiting.wait()
                raise DemoFailed(f"the worker ended with exit code {worker.exit_code()}; its log: {log}")
            time.sleep(0.2)
    finally:
        worker.stop(seconds=STOP_SECONDS)
    if waiting.returncode not in (0, 1):  # 1: some jobs failed; the page shows which
        raise DemoFailed(f"producer submit ended with exit code {waiting.returncode}")


def report(environment: dict[str, str]) -> None:
    """Write results.jsonl and index.html."""
    say("5/5  results and page")
    results = run("-m", "producer", "results", BATCH, environment=environment, capture=True)
    (OUTPUT / "results.jsonl").write_text(results)
    run("-m", "producer", "gallery", BATCH, "--out", str(OUTPUT), environment=environment)


def run(*arguments: str, environment: dict[str, str] | None = None, capture: bool = False) -> str:
    """Run one of our own commands with this Python; returns its stdout with `capture`."""
    STATE.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        check=False,
        text=True,
        stdout=subprocess.PIPE if capture else sys.stderr,
    )
    if done.returncode:
        raise DemoFailed(f"`python {' '.join(arguments)}` ended with exit code {done.returncode}")
    return done.stdout or ""


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that Redis and the worker are stopped too
    sys.exit(main())
