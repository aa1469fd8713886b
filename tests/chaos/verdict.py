"""What must be true after a run: each job ended once, is whole, and looks as it would have without any fault."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np

from jobs.job import RenderJob, RenderResult
from jobs.settings import load_settings
from jobs.uri import path_of
from tests.chaos.arena import BATCH, MISSING_EVERY, Arena
from worker.prepare import Prepared
from worker.renderer import load_renderer

AT_ONCE = 64


@dataclass
class Verdict:
    """Sentences about what is wrong, and the counts."""

    wrong: list[str]
    counted: dict[str, int]


def judge(arena: Arena) -> Verdict:
    """Check the ledger, the logs and every file."""
    jobs = {job.id: job for job in arena.jobs()}
    results = list(arena.ledger.results(BATCH))
    wrong = [*arena.unexpected, *_of_the_ledger(arena, jobs, results), *_of_the_logs(arena)]
    done = [jobs[result.id] for result in results if result.state == "done" and result.id in jobs]
    wrong += _of_the_files(arena, done)
    wrong += _of_the_pictures(done)
    return Verdict(wrong, _counted(arena, results))


def _of_the_ledger(arena: Arena, jobs: dict[str, RenderJob], results: list[RenderResult]) -> list[str]:
    wrong = []
    counts, states = arena.counts(), list(arena.ledger.states(BATCH))
    if (counts.total, counts.finished) != (len(jobs), len(jobs)):
        wrong.append(f"the counts are {counts}, of {len(jobs)} jobs")
    if Counter(line.state for line in states) != Counter({s: n for s, n in counts.model_dump().items() if n}):
        wrong.append(f"the counts {counts} are not those of the states")
    if sorted(line.id for line in states) != sorted(jobs):
        wrong.append("the jobs in the ledger are not those of the CSV")
    if sorted(result.id for result in results) != sorted(jobs):
        wrong.append(f"there are {len(results)} results for {len(jobs)} jobs")
    by_id = {line.id: line.state for line in states}
    wrong += [f"{r.id} is {by_id[r.id]} and its result says {r.state}" for r in results if by_id.get(r.id) != r.state]
    for result in results:
        expected = "failed" if result.row % MISSING_EVERY == 0 else "done"
        if result.state != expected:
            wrong.append(f"row {result.row} ended {result.state} ({result.error_kind}: {result.error})")
    return wrong


def _of_the_logs(arena: Arena) -> list[str]:
    """`first` says that the ledger recorded this end of the job; that may happen once a job."""
    ends = Counter(event["job"] for event in arena.events() if event.get("event") == "job_done" and event.get("first"))
    wrong = [f"{job} was recorded as done {number} times" for job, number in ends.items() if number > 1]
    broken = [event for event in arena.events() if event.get("event") in ("job_broke", "loop_broke", "device_lost")]
    return wrong + [f"a worker logged {event['event']}: {event.get('exception', event)}" for event in broken]


def _of_the_files(arena: Arena, done: list[RenderJob]) -> list[str]:
    wrong = []
    expected = set()
    for job in done:
        uris = [job.sidecar_uri, job.canny_uri, *(job.sample_uri(k) for k in range(job.parameters.num_samples))]
        expected |= {path_of(uri).name for uri in uris}
        try:
            sidecar = RenderResult.model_validate_json(path_of(job.sidecar_uri).read_bytes())
            if (sidecar.id, sidecar.state, sidecar.seed) != (job.id, "done", job.seed):
                wrong.append(f"the sidecar of row {job.row} is another job's")
        except (OSError, ValueError) as error:
            wrong.append(f"row {job.row} is done and its sidecar cannot be read: {error}")
    there = {path.name for path in arena.results.iterdir() if path.is_file()}
    wrong += [f"{name} is missing" for name in sorted(expected - there)]
    # A job that failed or was interrupted may have left pictures; without a sidecar they are no result.
    return wrong + [
        f"{name} belongs to no job that is done" for name in sorted(there - expected) if name.endswith("json")
    ]


def _of_the_pictures(done: list[RenderJob]) -> list[str]:
    """Render every picture again here; each must be the same, byte for byte."""
    wrong = []
    renderer = load_renderer(load_settings(engine_dir="fake:max_batch=32", max_pixels=10**8))
    stop = threading.Event()
    thread = threading.Thread(target=renderer.loop.run, args=[stop])
    thread.start()
    try:
        for begin in range(0, len(done), AT_ONCE):
            started: list[tuple[RenderJob, Prepared, list[Future[np.ndarray]]]] = []
            for job in done[begin : begin + AT_ONCE]:
                prepared = renderer.prepare(job, path_of(job.parameters.image).read_bytes())
                started.append((job, prepared, [renderer.loop.submit(request) for request in prepared.specs]))
            for job, prepared, samples in started:
                pictures = [renderer.encode(job, prepared, k, sample.result(60)) for k, sample in enumerate(samples)]
                wanted = {job.canny_uri: prepared.canny_png}
                wanted |= {job.sample_uri(k): png for k, png in enumerate(pictures)}
                others = [path_of(uri).name for uri, png in wanted.items() if not _is(uri, png)]
                wrong += [f"{name} is not the picture that it should be" for name in others]
    finally:
        stop.set()
        renderer.loop.wake()
        thread.join()
    return wrong


def _is(uri: str, data: bytes) -> bool:
    path = path_of(uri)
    return not path.exists() or path.read_bytes() == data  # `_of_the_files` reports missing files


def _counted(arena: Arena, results: list[RenderResult]) -> dict[str, int]:
    events = Counter(event.get("event") for event in arena.events())
    again = sum(event.get("event") == "job_done" and not event.get("first") for event in arena.events())
    return {
        "done": sum(result.state == "done" for result in results),
        "failed": sum(result.state == "failed" for result in results),
        "most_attempts": max((result.attempts for result in results), default=0),
        "rendered_again": again,
        "worker_starts": events["worker_started"],
        "garbage_dropped": events["garbage_in_queue"] + events["message_not_understood"] + events["bad_message"],
    }
