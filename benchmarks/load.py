"""Measure the load that one Redis can carry and print one JSON line.

    python -m benchmarks.load [--workers 200] [--jobs 20000] [--job-seconds 2.0] [--in-flight 16]

Simulated workers, threads in a few processes, do everything that a worker does with Redis and nothing else: they take
messages through kombu with our transport, start and finish jobs in the ledger, acknowledge, and send heartbeats. A
pause stands for rendering. The clients share this machine's cores with Redis, so `jobs_per_second` is a lower bound;
Redis's own CPU time a job says what it could do.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import redis
from kombu import Consumer, Queue

from benchmarks.measuring import versions
from benchmarks.queue_client import connect
from benchmarks.sample_jobs import enqueue, result_of
from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from tools.embedded_redis import EmbeddedRedis

BATCH, QUEUE = "load", "render"
PROCESSES = 4
IDLE_SECONDS = 5.0


class SimulatedWorker(threading.Thread):
    """One worker: `in_flight` jobs at once, each of which takes `job_seconds`."""

    def __init__(self, number: int, settings: Settings, job_seconds: float, stop: Any) -> None:
        super().__init__(name=f"load-{number}", daemon=True)
        self._settings = settings
        self._job_seconds = job_seconds
        self._stop_event = stop
        self._ledger = Ledger.connect(settings)
        self._running: deque[tuple[float, RenderJob, Any]] = deque()
        self._next_beat = 0.0

    def run(self) -> None:
        """Take, start, pause, finish and acknowledge jobs until `stop` is set."""
        with connect(self._settings) as connection:
            consumer = Consumer(connection, [Queue(QUEUE)], callbacks=[self._take], accept=["json"])
            consumer.qos(prefetch_count=self._settings.jobs_in_flight)
            with consumer:
                while not self._stop_event.is_set():
                    self._beat()
                    self._finish_due()
                    try:
                        connection.drain_events(timeout=self._pause())
                    except (TimeoutError, OSError):
                        continue

    def _take(self, body: Any, message: Any) -> None:
        job = RenderJob.from_json(body[0][0])
        if self._ledger.start(job, worker=self.name).decision == "run":
            self._running.append((time.monotonic() + self._job_seconds, job, message))
        else:
            message.ack()

    def _finish_due(self) -> None:
        while self._running and self._running[0][0] <= time.monotonic():
            _, job, message = self._running.popleft()
            self._ledger.finish(result_of(job, self.name))
            message.ack()

    def _pause(self) -> float:
        due = self._running[0][0] if self._running else self._next_beat
        return min(max(due - time.monotonic(), 0.001), 1.0)

    def _beat(self) -> None:
        if time.monotonic() >= self._next_beat:
            held = [job.id for _, job, _ in self._running]
            self._ledger.beat(self.name, in_flight=held, lease_seconds=self._settings.lease_seconds)
            if held:
                self._ledger.cancels(BATCH)
            self._next_beat = time.monotonic() + self._settings.heartbeat_seconds


def serve(numbers: range, settings: Settings, job_seconds: float, stop: Any) -> None:
    """Run a process of simulated workers."""
    workers = [SimulatedWorker(number, settings, job_seconds, stop) for number in numbers]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def figures(client: redis.Redis) -> dict[str, float]:
    """Redis's own counters, and when they were read."""
    stats, cpu, memory = client.info("stats"), client.info("cpu"), client.info("memory")
    return {
        "commands": stats["total_commands_processed"],
        "received": stats["total_net_input_bytes"],
        "sent": stats["total_net_output_bytes"],
        "cpu": cpu["used_cpu_user"] + cpu["used_cpu_sys"],
        "memory": memory["used_memory"],
        "at": time.monotonic(),
    }


@dataclass(frozen=True)
class Counters:
    """Redis's counters at the turning points of a run, and the jobs done between `begun` and `ended`."""

    empty: dict[str, float]
    queued: dict[str, float]
    begun: dict[str, float]  # all workers have jobs
    ended: dict[str, float]  # before the last jobs leave workers idle
    over: dict[str, float]
    idle: dict[str, float]  # IDLE_SECONDS later
    left: dict[str, float]  # without the workers' connections
    done: int


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Enqueue, let the workers empty the queue, then watch them idle; returns the JSON line's figures."""
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        settings = Settings(redis_url=server.url, jobs_in_flight=options.in_flight)
        counters = run(client, settings, options)
        redis_version = client.info("server")["redis_version"]
    return {
        "workers": options.workers,
        "jobs": options.jobs,
        "job_seconds": options.job_seconds,
        "in_flight": options.in_flight,
        **summary(counters, options),
        "redis": redis_version,
    }


def run(client: redis.Redis, settings: Settings, options: argparse.Namespace) -> Counters:
    """Enqueue the jobs and work them off."""
    ledger = Ledger(client)
    empty = figures(client)
    enqueue(ledger, BATCH, options.jobs)
    queued = figures(client)
    with simulated_workers(settings, options):
        wait_for_done(ledger, options.jobs // 20)
        begun, done_before = figures(client), ledger.counts(BATCH).done
        done = wait_for_done(ledger, options.jobs * 0.95)
        ended = figures(client)
        wait_for_done(ledger, options.jobs)
        time.sleep(1.0)
        over = figures(client)
        time.sleep(IDLE_SECONDS)
        idle = figures(client)
    return Counters(empty, queued, begun, ended, over, idle, left=figures(client), done=done - done_before)


@contextmanager
def simulated_workers(settings: Settings, options: argparse.Namespace) -> Iterator[None]:
    """Run the workers' processes as long as the block runs."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    shares = [range(p, options.workers, PROCESSES) for p in range(PROCESSES)]
    processes = [context.Process(target=serve, args=(s, settings, options.job_seconds, stop)) for s in shares]
    for process in processes:
        process.start()
    try:
        yield
    finally:
        stop.set()
        for process in processes:
            process.join()


def wait_for_done(ledger: Ledger, number: float) -> int:
    """Wait until so many jobs are done; returns how many are."""
    while (done := ledger.counts(BATCH).done) < number:
        time.sleep(0.2)
    return done


def summary(counters: Counters, options: argparse.Namespace) -> dict[str, float]:
    """The figures a job and a worker."""
    begun, ended, over, idle = counters.begun, counters.ended, counters.over, counters.idle
    a_job = {name: (ended[name] - begun[name]) / counters.done for name in ended}
    idle_seconds = idle["at"] - over["at"]
    return {
        "jobs_per_second": round(1 / a_job["at"], 1),
        "redis_commands_per_job": round(a_job["commands"], 1),
        "redis_bytes_in_per_job": round(a_job["received"]),
        "redis_bytes_out_per_job": round(a_job["sent"]),
        "redis_cpu_ms_per_job": round(1000 * a_job["cpu"], 3),
        "redis_jobs_per_cpu_second": round(1 / a_job["cpu"]),
        "redis_memory_per_queued_job": round((counters.queued["memory"] - counters.empty["memory"]) / options.jobs),
        "redis_memory_per_done_job": round((counters.left["memory"] - counters.empty["memory"]) / options.jobs),
        "idle_commands_per_worker_second": round(
            (idle["commands"] - over["commands"]) / idle_seconds / options.workers, 2
        ),
        "idle_redis_cpu_percent": round(100 * (idle["cpu"] - over["cpu"]) / idle_seconds, 1),
    }


def main() -> None:
    """Measure; print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure the load that one Redis can carry; one JSON line.")
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--job-seconds", type=float, default=2.0, help="how long one job takes, start to end")
    parser.add_argument("--in-flight", type=int, default=16, help="jobs that one worker holds at once")
    measured = measure(parser.parse_args())
    used = versions("celery", "kombu", "redis")
    print(json.dumps({"bench": "load", **measured, "cores": os.cpu_count(), "versions": used}))


if __name__ == "__main__":
    main()
