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
from tests.chaos.arena import MISSING_EVERY, Arena
from tests.chaos.storage import BATCH, Storage
from tests.worker_process import log_events
from worker.prepare import Prepared
from worker.renderer import load_renderer

AT_ONCE = 64
MOST_DRAWN_AGAIN = 0.02  # of the finished jobs, for storage's sake
STORAGE = ("output_unavailable", "output_forbidden", "output_full")  # kinds of errors


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
    wrong += _of_the_pictures(done, arena.storage)
    counted = _counted(arena, results)
    if counted["drawn_again_for_storage"] > MOST_DRAWN_AGAIN * len(done):
        wrong.append(f"{counted['drawn_again_for_storage']} of {len(done)} finished jobs were drawn again for storage")
    return Verdict(wrong, counted)


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
    wrong += [f"a worker logged {event['event']}: {event.get('exception', event)}" for event in broken]
    # One worker's own fault must not cost a job that others can render. When all refuse, it is storage.
    expected = {"source_not_found", *STORAGE}
    failed = [event for event in arena.events() if event.get("event") == "job_failed"]
    return wrong + [f"{event['job']} failed: {event['error']}" for event in failed if event["kind"] not in expected]


def _of_the_files(arena: Arena, done: list[RenderJob]) -> list[str]:
    wrong = []
    expected = set()
    for job in done:
        uris = [job.sidecar_uri, job.canny_uri, *(job.sample_uri(k) for k in range(job.parameters.num_samples))]
        expected |= {uri.rpartition("/")[2] for uri in uris}
        try:
            sidecar = RenderResult.model_validate_json(arena.storage.read(job.sidecar_uri) or b"")
            if (sidecar.id, sidecar.state, sidecar.seed) != (job.id, "done", job.seed):
                wrong.append(f"the sidecar of row {job.row} is another job's")
        except (OSError, ValueError) as error:
            wrong.append(f"row {job.row} is done and its sidecar cannot be read: {error}")
    there = arena.storage.names()
    wrong += [f"{name} is missing" for name in sorted(expected - there)]
    # A job that failed or was interrupted may have left pictures; without a sidecar they are no result.
    return wrong + [
        f"{name} belongs to no job that is done" for name in sorted(there - expected) if name.endswith("json")
    ]


def _of_the_pictures(done: list[RenderJob], storage: Storage) -> list[str]:
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
                # `_of_the_files` reports what is missing.
                others = [uri for uri, png in wanted.items() if storage.read(uri) not in (None, png)]
                wrong += [f"{name} is not the picture that it should be" for name in others]
    finally:
        stop.set()
        renderer.loop.wake()
        thread.join()
    return wrong


def _counted(arena: Arena, results: list[RenderResult]) -> dict[str, int]:
    events = Counter(event.get("event") for event in arena.events())
    again = sum(event.get("event") == "job_done" and not event.get("first") for event in arena.events())
    return {
        "done": sum(result.state == "done" for result in results),
        "failed": sum(result.state == "failed" for result in results),
        "most_attempts": max((result.attempts for result in results), default=0),
        "rendered_again": again,
        "drawn_again_for_storage": _drawn_again_for_storage(arena),
        "worker_starts": events["worker_started"],
        "refused": events["job_refused"],
        "pauses": events["worker_paused"],
        "garbage_dropped": events["garbage_in_queue"] + events["message_not_understood"] + events["bad_message"],
    }


def _drawn_again_for_storage(arena: Arena) -> int:
    """How often a worker that was neither killed nor stopped drew a job and could not store it."""
    again = 0
    for log in arena.logs:
        drawn: set[str] = set()
        for event in log_events(log):
            name, job = event.get("event"), event.get("job", "")
            if name == "job_drawn":
                drawn.add(job)
            elif name in ("job_done", "job_started"):
                drawn.discard(job)
            elif name in ("job_refused", "tried_again_later", "job_failed") and job in drawn:
                drawn.discard(job)
                again += event.get("kind") in STORAGE
    return again
