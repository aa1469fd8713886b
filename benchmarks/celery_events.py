"""Measure what RENDER_CELERY_EVENTS costs Redis, and print one JSON line.

    python -m benchmarks.celery_events [--jobs 400] [--idle-seconds 20] [--monitors 0]

One real worker whose engines take no time (`fake:`) is watched twice, without events and with them: while it is idle,
and while it works through the jobs. The figures are differences of Redis's own counters. Those per job leave out what
an idle worker causes in the same time. `--monitors` receivers listen to the events, and Redis sends a copy to each.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import redis
from celery import Celery
from celery.events.receiver import EventReceiver
from PIL import Image

from benchmarks.measuring import positive, versions
from benchmarks.site import Site
from jobs.job import RenderJob, RenderParameters
from jobs.ledger.ledger import Ledger
from tools.embedded_redis import EmbeddedRedis

BATCH = "events"
SETTLE_SECONDS = 2.0
COUNTERS = {
    "commands": "total_commands_processed",
    "bytes_in": "total_net_input_bytes",
    "bytes_out": "total_net_output_bytes",
}

Figures = dict[str, float]


def measure(options: argparse.Namespace, *, events: bool) -> dict[str, float]:
    """The figures of one worker, with or without events."""
    with (
        tempfile.TemporaryDirectory() as name,
        EmbeddedRedis() as server,
        redis.Redis.from_url(server.url, decode_responses=True) as client,
        monitors(client, server.url, options.monitors if events else 0),
    ):
        others = len(client.client_list())
        settings = {"RENDER_CELERY_EVENTS": str(events).lower()}
        site = Site(Path(name), server.url, engines=Path("fake:"), settings=settings)
        with site.worker():
            time.sleep(SETTLE_SECONDS)
            connections = len(client.client_list()) - others
            idle, busy = watch(client, site, options)
    a_job = {key: (busy[key] - idle[key] * busy["at"]) / options.jobs for key in COUNTERS}
    return {
        **{f"idle_{key}_per_second": round(idle[key], 2) for key in COUNTERS},
        **{f"{key}_per_job": round(value, 1) for key, value in a_job.items()},
        "connections": connections,
    }


def watch(client: redis.Redis, site: Site, options: argparse.Namespace) -> tuple[Figures, Figures]:
    """What an idle worker causes in a second, and what it causes while it works through the jobs."""
    begun = figures(client)
    time.sleep(options.idle_seconds)
    idle = a_second(begun, figures(client))
    enqueue(site.ledger, site.folder, options.jobs)
    begun = figures(client)
    wait_until_done(site.ledger, options.jobs)
    return idle, difference(begun, figures(client))


def enqueue(ledger: Ledger, folder: Path, number: int) -> None:
    """Jobs of one small picture and two steps, all at once, so that only the worker's own commands are counted."""
    picture = folder / "picture.png"
    Image.new("RGB", (64, 64), "white").save(picture)
    output = (folder / "out").as_uri()
    ledger.open_batch(BATCH, output=output, source="file:///events.csv")
    jobs = []
    for row in range(1, number + 1):
        parameters = RenderParameters(
            image=picture.as_uri(), prompt=f"thing {row}", image_resolution=64, ddim_steps=2, num_samples=1
        )
        jobs.append(RenderJob.create(parameters, batch=BATCH, row=row, output=output))
    ledger.enqueue(jobs)


def wait_until_done(ledger: Ledger, number: int) -> None:
    """Look once a second, since each look is commands of ours.

    Raises:
        SystemExit: a job failed.
    """
    while (counts := ledger.counts(BATCH)).finished < number:
        time.sleep(1.0)
    if counts.failed:
        raise SystemExit(f"{counts.failed} of {number} jobs failed")


def figures(client: redis.Redis) -> Figures:
    """Redis's counters, and when they were read."""
    stats = client.info("stats")
    return {**{key: float(stats[name]) for key, name in COUNTERS.items()}, "at": time.monotonic()}


def difference(begun: Figures, ended: Figures) -> Figures:
    """What was added between two readings."""
    return {key: ended[key] - begun[key] for key in ended}


def a_second(begun: Figures, ended: Figures) -> Figures:
    """What was added in each second between two readings."""
    added = difference(begun, ended)
    return {key: value / added["at"] for key, value in added.items()}


@contextmanager
def monitors(client: redis.Redis, url: str, number: int) -> Iterator[None]:
    """Run so many receivers of events, each like `celery events --dump`; begins once all of them listen."""
    stop = threading.Event()
    threads = [threading.Thread(target=receive, args=(url, stop), daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    while len(client.client_list(_type="pubsub")) < number:
        time.sleep(0.1)
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(5)


def receive(url: str, stop: threading.Event) -> None:
    """Take events until told to stop."""
    app = Celery(broker=url, set_as_current=False)
    with app.connection_for_read() as connection:
        receiver = EventReceiver(connection, app=app, handlers={"*": lambda _: None})
        with receiver.consumer_context(wakeup=False) as (own_connection, _, _):
            while not stop.is_set():
                with suppress(OSError):
                    own_connection.drain_events(timeout=0.2)


def main() -> None:
    """Measure without events and with them; print one JSON line."""
    parser = argparse.ArgumentParser(description="Measure what RENDER_CELERY_EVENTS costs Redis; one JSON line.")
    parser.add_argument("--jobs", type=positive(int), default=400)
    parser.add_argument(
        "--idle-seconds", type=positive(float), default=20.0, help="how long the idle worker is watched"
    )
    parser.add_argument("--monitors", type=int, default=0, help="receivers of events that listen")
    options = parser.parse_args()
    measured = {name: measure(options, events=events) for name, events in (("off", False), ("on", True))}
    ran_on = {"cores": os.cpu_count(), "versions": versions("celery", "kombu", "redis")}
    print(json.dumps({"bench": "celery_events", **vars(options), **measured, **ran_on}))


if __name__ == "__main__":
    main()
