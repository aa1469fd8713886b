"""GpuPool under real Celery processes and a real Redis, with jobs that only wait (tests/worker/toy_app.py)."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import redis
from celery import Celery, signals
from kombu.asynchronous import Hub

from tests.eventually import eventually
from tests.worker.toy import StartToy, Toy
from tools.embedded_redis import EmbeddedRedis
from worker.celery.pool import GpuPool
from worker.shutdown import Shutdown


def test_every_reserved_message_gets_a_thread_at_once_and_no_more_are_taken(toy: Toy, start_toy: StartToy) -> None:
    for _ in range(6):
        toy.send(30)
    worker = start_toy(prefetch=4, grace=0)
    for _ in range(4):
        toy.wait_for("begin")
    assert (toy.unacknowledged, toy.waiting) == (4, 2)
    worker.terminate()
    assert worker.exit_code() == 0
    assert toy.rest_of_diary().count("begin") == 4


def test_an_ended_job_is_acknowledged_while_the_worker_goes_on(toy: Toy, start_toy: StartToy) -> None:
    worker = start_toy(prefetch=1)
    for _ in range(5):
        toy.send(0.05)
        toy.wait_for("end")
        eventually(lambda: toy.unacknowledged == 0)
    assert worker.alive


def test_jobs_that_wait_for_their_engine_sets_turn_leave_their_places_to_others(toy: Toy, start_toy: StartToy) -> None:
    for _ in range(6):
        toy.send(30)
    worker = start_toy(prefetch=2, parked=3, grace=0)
    for _ in range(5):
        toy.wait_for("begin")
    assert (toy.unacknowledged, toy.waiting) == (5, 1)
    worker.terminate()


@pytest.fixture
def pool() -> Iterator[GpuPool]:
    """A started pool, whose service does nothing."""
    app = Celery("pool", set_as_current=False)
    fitness = SimpleNamespace(paused=None, on_change=lambda listener: None)
    app.service = SimpleNamespace(
        grace_seconds=0.0, shutdown=Shutdown(), fitness=fitness, start=lambda fatal: None, stop=lambda: None
    )
    pool = GpuPool(1, app=app)
    pool.on_start()
    yield pool
    signals.worker_shutting_down.disconnect(pool._on_shutdown_asked)
    os.close(pool._wake_read)
    os.close(pool._wake_write)


@pytest.mark.parametrize("breaks", [False, True])
def test_an_ended_job_wakes_the_event_loop_whose_thread_reports_it(pool: GpuPool, breaks: bool) -> None:
    """The stock threads pool reported it when the poller next woke up by itself, up to a second later."""
    hub = Hub()
    pool.register_with_event_loop(hub)
    reports: list[tuple[str, threading.Thread]] = []
    pool.on_apply(
        lambda: 1 // (not breaks),
        callback=lambda _: reports.append(("ended", threading.current_thread())),
        error_callback=lambda _: reports.append(("broke", threading.current_thread())),
    )
    # Nothing but the end of the job can make the poller return before its ten seconds are over.
    woken_by = [fd for fd, _ in hub.poller.poll(10) or ()]
    assert woken_by == [pool._wake_read]
    assert reports == []
    callback, arguments = hub.readers[pool._wake_read]
    callback(*arguments)
    assert reports == [("broke" if breaks else "ended", threading.current_thread())]
    hub.close()


def test_only_in_a_shutdown_does_a_command_to_end_one_job_requeue_them_all(pool: GpuPool) -> None:
    pool.terminate_job(os.getpid(), signal.SIGKILL)
    pool._on_wake()
    assert not pool._shutdown.insisted
    pool._on_shutdown_asked("Warm")
    assert not pool._shutdown.insisted
    pool.terminate_job(os.getpid(), signal.SIGKILL)
    pool._on_wake()
    assert pool._shutdown.insisted


def test_sigterm_lets_running_jobs_end_and_takes_no_others(toy: Toy, start_toy: StartToy) -> None:
    worker = start_toy(prefetch=2)
    for _ in range(5):
        toy.send(1.0)
    toy.wait_for("begin")
    toy.wait_for("begin")
    worker.terminate()
    assert worker.exit_code() == 0
    assert toy.rest_of_diary()[1:] == ["begin", "begin", "drain", "end", "end", "stop"]
    assert (toy.unacknowledged, toy.waiting) == (0, 3)


def test_acknowledgements_reach_redis_during_a_drain_not_at_its_end(toy: Toy, start_toy: StartToy) -> None:
    worker = start_toy(prefetch=2, grace=20)
    toy.send(0.8)
    toy.send(30)
    toy.wait_for("begin")
    toy.wait_for("begin")
    worker.terminate()
    toy.wait_for("end")
    eventually(lambda: toy.unacknowledged == 1)  # that of the other job, which takes longer than the drain may
    assert worker.alive
    assert not {"requeued", "stop"} & set(toy.rest_of_diary())


def test_jobs_that_outlast_the_grace_period_are_requeued(toy: Toy, start_toy: StartToy) -> None:
    worker = start_toy(prefetch=2, grace=0.5)
    for seconds in (0.2, 30, 30):
        toy.send(seconds)
    toy.wait_for("end")
    toy.wait_for("begin")
    worker.terminate()
    assert worker.exit_code() == 0
    assert toy.rest_of_diary()[-4:] == ["drain", "requeued", "requeued", "stop"]
    assert (toy.unacknowledged, toy.waiting) == (0, 2)


def test_a_job_that_finds_no_thread_goes_back_and_is_nobodys_in_a_drain(toy: Toy, start_toy: StartToy) -> None:
    worker = start_toy(prefetch=1, grace=60, threadless=2)
    toy.send(0.0)
    toy.wait_for("end")
    assert worker.output.count("job_not_begun") == 2
    eventually(lambda: (toy.unacknowledged, toy.waiting) == (0, 0))
    worker.terminate()
    assert worker.exit_code(seconds=30) == 0


def test_a_second_sigterm_requeues_at_once(toy: Toy, start_toy: StartToy) -> None:
    worker = start_toy(prefetch=2, grace=60)
    toy.send(60)
    toy.wait_for("begin")
    worker.terminate()
    toy.wait_for("drain")
    worker.terminate()
    assert worker.exit_code(seconds=30) == 0
    assert (toy.unacknowledged, toy.waiting) == (0, 1)


@pytest.mark.parametrize("first", [None, signal.SIGTERM])
def test_sigquit_requeues_everything_at_once(toy: Toy, start_toy: StartToy, first: signal.Signals | None) -> None:
    worker = start_toy(prefetch=3, grace=60)
    for _ in range(4):
        toy.send(60)
    for _ in range(3):
        toy.wait_for("begin")
    if first is not None:
        worker.signal(first)
        toy.wait_for("drain")
    worker.signal(signal.SIGQUIT)
    worker.exit_code(seconds=30)
    assert toy.rest_of_diary()[-4:] == ["requeued", "requeued", "requeued", "stop"]
    assert (toy.unacknowledged, toy.waiting) == (0, 4)
    assert "Unrecoverable" not in worker.output
    assert "terminate_job_refused" not in worker.output  # which says that the jobs go on


def test_a_killed_workers_messages_come_back_after_the_visibility_timeout(toy: Toy, start_toy: StartToy) -> None:
    worker = start_toy(prefetch=2, visibility=5)
    ids = {toy.send(60), toy.send(60)}
    toy.wait_for("begin")
    toy.wait_for("begin")
    worker.kill()
    assert toy.unacknowledged == 2
    toy.diary.clear()
    for tag in toy.client.zrange("unacked_index", 0, -1):
        toy.client.zincrby("unacked_index", -10, str(tag))  # as if the messages had been delivered ten seconds earlier
    start_toy(prefetch=2, visibility=5)
    toy.wait_for("begin")
    toy.wait_for("begin")
    assert {who for event, who, _ in toy.diary if event == "begin"} == ids


def test_a_refusal_to_start_ends_the_process_with_its_code_before_any_message_is_taken(
    toy: Toy, start_toy: StartToy
) -> None:
    toy.send(1)
    worker = start_toy(refuse=17)
    assert worker.exit_code() == 17
    assert (toy.unacknowledged, toy.waiting) == (0, 1)


def test_redis_going_away_and_coming_back_is_survived_without_taking_more_than_the_prefetch(
    start_toy: StartToy,
) -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        toy = Toy(client)
        worker = start_toy(url=server.url, prefetch=3)
        toy.send(3.0)
        toy.wait_for("begin")
        server.kill()
        client.connection_pool.disconnect()
        server.start()
        for _ in range(6):
            toy.send(60)
        for _ in range(3):
            toy.wait_for("begin", seconds=20)
        assert worker.alive
        assert toy.waiting == 3
