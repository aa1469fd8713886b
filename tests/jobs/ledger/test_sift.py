"""The messages of ended jobs leave the queue, and nothing else does, beside workers and producers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import redis

from jobs.ledger import sift as sifting
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result


def ids(ledger: Ledger) -> list[str]:
    """The jobs in the queue, in the order in which workers would get them."""
    return list(ledger.kombu.queued_ids())[::-1]


@pytest.fixture(params=["one by one", "all around"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Few messages are removed one by one; for many, the queue is moved around, here ten at a time."""
    monkeypatch.setattr(sifting, "ONE_BY_ONE", 10_000 if request.param == "one by one" else 0)
    monkeypatch.setattr(sifting, "CHUNK_JOBS", 10)
    monkeypatch.setattr(sifting, "SCAN_COUNT", 10)
    return str(request.param)


def test_cancelled_messages_leave_the_queue_and_the_others_keep_their_order(ledger: Ledger, way: str) -> None:
    jobs, others = make_jobs(47), make_jobs(47, batch="other")
    for job, other in zip(jobs, others, strict=True):
        enqueue(ledger, [job])
        enqueue(ledger, [other])
    ledger.start(jobs[0], worker="w")
    ledger.cancel("b")
    assert ledger.sift("b") == 46
    assert ids(ledger) == [jobs[0].id, *[other.id for other in others]]
    assert ledger.sift("b") == ledger.sift("other") == 0
    assert ids(ledger) == [jobs[0].id, *[other.id for other in others]]


def test_all_copies_of_a_cancelled_jobs_message_leave(ledger: Ledger, way: str) -> None:
    enqueue(ledger, make_jobs(5, batch="other"))
    enqueue(ledger, make_jobs(12))
    for _ in range(2):
        ledger.cancel("b")
        ledger.retry("b")
    ledger.cancel("b")
    assert ledger.queue_length() == 5 + 3 * 12
    assert ledger.sift("b") == 36
    assert ledger.queue_length() == 5


def test_one_job_is_cancelled_alone(ledger: Ledger, way: str) -> None:
    jobs = make_jobs(25)
    enqueue(ledger, jobs)
    ledger.cancel("b", jobs[12].id)
    assert ledger.sift("b") == 1
    assert ids(ledger) == [job.id for job in jobs if job is not jobs[12]]


def test_the_messages_of_corrected_rows_leave(ledger: Ledger, way: str) -> None:
    jobs = make_jobs(15)
    enqueue(ledger, jobs)
    corrected = make_job(7, prompt="corrected")
    ledger.enqueue([corrected])
    assert ledger.sift("b") == 1
    assert ids(ledger) == [job.id for job in jobs if job.row != 7] + [corrected.id]


def test_a_job_that_is_retried_keeps_its_new_message(ledger: Ledger, way: str) -> None:
    enqueue(ledger, make_jobs(25))
    ledger.cancel("b")
    ledger.sift("b")
    ledger.retry("b")
    assert (ledger.sift("b"), ledger.queue_length()) == (0, 25)


def test_garbage_and_messages_of_others_stay(ledger: Ledger, way: str) -> None:
    enqueue(ledger, make_jobs(12))
    ledger.client.lpush(ledger.queue, "not json", '{"headers": {}}')
    ledger.client.rpush(ledger.queue, "", '"correlation_id": "' + "0" * 20 + '"')
    ledger.cancel("b")
    assert ledger.sift("b") == 12
    assert sorted(ledger.client.lrange(ledger.queue, 0, -1)) == sorted(
        ["not json", '{"headers": {}}', "", '"correlation_id": "' + "0" * 20 + '"']
    )


def test_an_empty_queue_and_an_unknown_batch_are_nothing(ledger: Ledger, way: str) -> None:
    assert ledger.sift("b") == 0
    enqueue(ledger, make_jobs(3))
    assert (ledger.sift("nobody"), ledger.queue_length()) == (0, 3)


@pytest.fixture
def second(redis_url: str) -> Iterator[Ledger]:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        yield Ledger(client)


def test_no_job_is_lost_beside_workers_and_producers(ledger: Ledger, second: Ledger, way: str) -> None:
    """Every job that was not cancelled is handed out exactly once, while messages move around beneath the workers."""
    cancelled, others, late = make_jobs(200), make_jobs(200, batch="other"), make_jobs(100, batch="late")
    for first in range(0, 200, 20):
        enqueue(ledger, others[first : first + 20])
        enqueue(ledger, cancelled[first : first + 20])
    ledger.cancel("b")
    popped: list[str] = []
    over = threading.Event()

    def work() -> None:
        for number in range(150):
            if number < 100:
                enqueue(second, [late[number]])
            popped.append(str(second.client.rpop(second.queue)))
        over.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not over.is_set():
        ledger.sift("b")
    worker.join()
    ledger.sift("b")
    handed_out = [text[text.index('"correlation_id": "') + 19 :][:20] for text in popped]
    left = {job.id for job in cancelled}
    assert not left & set(ids(ledger))
    rest = [id_ for id_ in handed_out if id_ not in left] + ids(ledger)
    assert sorted(rest) == sorted(job.id for job in others + late)
    assert ledger.counts("other") == Counts(queued=200)


def test_a_step_that_is_the_last_one_loses_nothing(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sifting, "ONE_BY_ONE", 0)
    monkeypatch.setattr(sifting, "CHUNK_JOBS", 10)
    jobs, others = make_jobs(30), make_jobs(30, batch="other")
    for job, other in zip(jobs, others, strict=True):
        enqueue(ledger, [job])
        enqueue(ledger, [other])
    ledger.cancel("b")
    steps = iter(range(3))
    run = ledger._scripts.run

    def interrupted(name: str, **arguments: object) -> object:
        if name == "sift" and next(steps, None) is None:
            raise KeyboardInterrupt
        return run(name, **arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(ledger._scripts, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        ledger.sift("b")
    monkeypatch.undo()
    assert {other.id for other in others} <= set(ids(ledger))
    assert ledger.sift("b") == 15
    assert sorted(ids(ledger)) == sorted(other.id for other in others)


def test_what_was_done_long_ago_leaves_too(ledger: Ledger, way: str) -> None:
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    ledger.finish(make_result(jobs[1]))
    assert ledger.sift("b") == 1
    assert ids(ledger) == [jobs[0].id, jobs[2].id]
