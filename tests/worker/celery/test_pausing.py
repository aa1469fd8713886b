"""A paused worker takes no messages: real Celery processes, a real Redis, jobs that only wait (toy_app.py)."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import redis

from tests.eventually import eventually
from tests.worker.toy import StartToy, Toy
from tools.embedded_redis import EmbeddedRedis


def wait_until_paused(toy: Toy) -> None:
    """The BRPOP that was under way when the worker paused ends within a second. After it there is none."""
    eventually(lambda: not toy.asks)
    before = toy.looks
    eventually(lambda: toy.looks >= before + 3)  # turns of the event loop in which it could have begun another
    assert not toy.asks


def test_a_worker_that_starts_paused_takes_nothing_until_it_resumes(toy: Toy, start_toy: StartToy) -> None:
    toy.client.set("paused", "1")
    for _ in range(3):
        toy.send(0)
    worker = start_toy(arguments=["--loglevel", "INFO"])
    toy.wait_until_it_is("paused")
    eventually(lambda: " ready." in worker.output)
    wait_until_paused(toy)
    assert (toy.unacknowledged, toy.waiting) == (0, 3)
    toy.resume()
    for _ in range(3):
        toy.wait_for("end")


def test_running_jobs_end_while_the_worker_is_paused_and_it_can_be_stopped(toy: Toy, start_toy: StartToy) -> None:
    worker = start_toy(prefetch=2)
    toy.send(3)
    toy.wait_for("begin")
    toy.pause()
    wait_until_paused(toy)
    toy.send(0)
    toy.wait_for("end")
    eventually(lambda: toy.unacknowledged == 0)
    worker.terminate()
    assert worker.exit_code() == 0
    assert toy.waiting == 1
    assert toy.rest_of_diary().count("begin") == 1


def test_a_pause_outlasts_a_lost_connection(start_toy: StartToy, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        toy = Toy(client)
        worker = start_toy(url=server.url, arguments=["--loglevel", "INFO"])
        toy.send(0)
        toy.wait_for("end")
        eventually(lambda: toy.unacknowledged == 0)  # else the message comes back with the server
        toy.pause()
        server.kill()
        client.connection_pool.disconnect()
        server.start()
        toy.send(0)
        eventually(lambda: worker.output.count("Connected to ") == 2)
        wait_until_paused(toy)
        assert toy.waiting == 1
        toy.resume()
        toy.wait_for("end")


def test_no_message_is_lost_or_taken_twice_however_often_a_worker_pauses_under_load(
    toy: Toy, start_toy: StartToy
) -> None:
    rng = random.Random(15)
    start_toy(prefetch=4)
    toy.wait_for("start")
    sent = [toy.send(0.01) for _ in range(1500)]
    for _ in range(8):
        time.sleep(rng.uniform(0.0, 0.3))
        toy.pause()
        eventually(lambda: not toy.asks and toy.unacknowledged == 0)
        left = toy.waiting
        time.sleep(rng.uniform(0.0, 0.2))
        assert toy.waiting == left
        toy.resume()
    eventually(lambda: (toy.waiting, toy.unacknowledged) == (0, 0))
    toy.rest_of_diary()
    ends = Counter(who for event, who, _ in toy.diary if event == "end")
    assert ends == Counter(sent)
