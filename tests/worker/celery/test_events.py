"""What workers tell monitors by themselves: real workers, a real Redis, Celery's own receiver of events."""

from __future__ import annotations

import base64
import json
import threading
from typing import Any

import pytest
import redis
from kombu import Connection

from tests.eventually import eventually
from tests.integration.conftest import Site
from tests.jobs.rows import enqueue
from tests.worker.monitor import REPLIES, Monitor
from tools.embedded_redis import EmbeddedRedis
from worker.celery.outbox import LIMIT, Letter, Outbox
from worker.celery.request import _batch_and_row

BEGIN = ["task-received", "task-started"]


def test_each_way_in_which_a_job_can_end_is_an_event_without_secrets(site: Site) -> None:
    done = site.job(1, prompt="hunter2, takes 0 s")
    failed = site.job(2, image="http://user:hunter2@127.0.0.1:9/p.png?X-Amz-Signature=0123abcdef")
    running = site.job(3, prompt="hunter2, takes 600 s")
    with Monitor(site.redis_url) as monitor, monitor.watching() as watch:
        worker = site.start(celery_events="true", grace_seconds=0)
        enqueue(site.ledger, [done, failed, running])
        site.ledger.client.lpush("render", strange_message())
        eventually(lambda: len(watch.of(running.id)) == 2 and watch.of(done.id)[2:] and watch.of(failed.id)[2:])
        eventually(lambda: watch.of("0" * 20)[2:])
        worker.terminate()
        assert worker.exit_code() == 0
        eventually(lambda: watch.of(running.id)[2:] and watch.of_workers()[-1:] == ["worker-offline"])
    assert watch.of(done.id) == [*BEGIN, "task-succeeded"]
    assert watch.of(failed.id) == [*BEGIN, "task-failed"]
    assert watch.of(running.id) == [*BEGIN, "task-retried"]
    assert watch.of("0" * 20) == [*BEGIN, "task-failed"]
    assert [watch.of_workers()[0], watch.of_workers()[-1]] == ["worker-online", "worker-offline"]
    assert set(watch.of_workers()[1:-1]) <= {"worker-heartbeat"}
    events = {(event["uuid"], event["type"]): event for event in watch.of_jobs()}
    received = events[done.id, "task-received"]
    assert (received["name"], received["args"]) == ("render", f"({done.id},)")
    assert received["kwargs"] == repr({"batch": "b", "row": 1})
    assert events[failed.id, "task-failed"]["exception"] == "failed: source_forbidden"
    assert events[running.id, "task-retried"]["exception"] == "requeued: requeued"
    assert events["0" * 20, "task-failed"]["exception"] == "invalid: invalid_job"
    for secret in ("hunter2", "0123abcdef", "castle", site.picture.name, "Traceback"):
        assert secret not in json.dumps(watch.events)


def strange_message() -> str:
    """A message that holds no job, with what must not be shown in each place where Celery would show it."""
    headers = {"task": "render", "id": "0" * 20, "argsrepr": "castle", "kwargsrepr": "castle", "shadow": "castle"}
    return json.dumps(
        {
            "body": json.dumps([['{"batch": "castle castle", "row": "castle"}'], {}, {}]),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", **headers},
            "properties": {
                "correlation_id": "0" * 20,
                "delivery_info": {"exchange": "", "routing_key": "render"},
                "delivery_tag": "strange",
            },
        }
    )


@pytest.mark.parametrize("row", ["1e400", "NaN", '"castle"', "[]", "9" * 5000, "[" * 100_000])
def test_a_row_that_is_no_number_is_not_shown_and_left_to_the_task_to_refuse(row: str) -> None:
    assert _batch_and_row([f'{{"batch": "b", "row": {row}}}']) == {}


def test_a_cancelled_job_is_revoked_for_monitors(site: Site) -> None:
    with Monitor(site.redis_url) as monitor, monitor.watching() as watch:
        site.start(celery_events="true")
        (job,) = site.enqueue(1, seconds=600)
        eventually(lambda: site.ledger.counts("b").running == 1)
        site.ledger.cancel("b", job.id)
        eventually(lambda: watch.of(job.id)[2:])
    assert watch.of(job.id) == [*BEGIN, "task-revoked"]


def test_events_of_jobs_can_be_turned_off_and_on_by_a_monitor(site: Site) -> None:
    site.start(celery_events="true")
    with Monitor(site.redis_url) as monitor, monitor.watching() as watch:
        eventually(monitor.is_answered)
        assert "ok" in monitor.ask_one("disable_events")
        enqueue(site.ledger, [site.job(1)])
        site.wait_until_done(1)
        eventually(lambda: site.held == 0)
        assert "ok" in monitor.ask_one("enable_events")
        second = site.job(2)
        enqueue(site.ledger, [second])
        eventually(lambda: watch.of(second.id) == [*BEGIN, "task-succeeded"])
    assert {event["uuid"] for event in watch.of_jobs()} == {second.id}
    assert "worker-heartbeat" in watch.of_workers()


# -- the outbox -------------------------------------------------------------------------------------------------------


def letter(number: int, type: str = "task-started") -> Letter:
    return Letter({"type": type, "number": number}, headers={"hostname": "w"})


def test_events_of_jobs_share_messages_and_arrive_in_order(redis_url: str) -> None:
    outbox = Outbox(lambda: Connection(redis_url))
    with redis.Redis.from_url(redis_url, decode_responses=True) as client, client.pubsub() as channels:
        channels.psubscribe("/0.celeryev/*")
        assert channels.get_message(timeout=10)["type"] == "psubscribe"
        for number in range(120):
            outbox.put(letter(number))
        outbox.put(letter(0, "worker-heartbeat"))
        outbox.start()
        messages = [message_in(channels) for _ in range(4)]
        outbox.stop(10)
    multi = [body for key, body in messages if key == "task.multi"]
    assert [event["number"] for body in multi for event in body] == list(range(120))
    assert messages[-1] == ("worker.heartbeat", letter(0, "worker-heartbeat").body)


def message_in(channels: Any) -> tuple[str, Any]:
    """The routing key and the body of the next message."""
    message = channels.get_message(timeout=10)
    body = json.loads(message["data"])["body"]
    return message["channel"].rpartition("/")[2], json.loads(base64.b64decode(body))


def test_nobody_waits_for_redis_and_the_newest_events_are_kept() -> None:
    asked, go_on = threading.Event(), threading.Event()

    def connect() -> Connection:
        asked.set()
        go_on.wait(30)
        return Connection("redis://127.0.0.1:1")

    outbox = Outbox(connect)
    outbox.start()
    outbox.put(letter(0))
    assert asked.wait(30)
    for number in range(3 * LIMIT):
        outbox.put(letter(number))
    waiting = list(outbox._letters)
    assert [waiting[0].body["number"], waiting[-1].body["number"], len(waiting)] == [2 * LIMIT, 3 * LIMIT - 1, LIMIT]
    outbox.stop(0.01)  # it does not wait for the thread either, which hangs
    go_on.set()
    outbox.stop(30)
    assert not outbox._thread.is_alive()


def test_after_an_outage_the_outbox_goes_on() -> None:
    with EmbeddedRedis() as server:
        outbox = Outbox(lambda: Connection(server.url))
        outbox.start()
        outbox.put(letter(1))
        eventually(lambda: outbox._producer is not None)
        server.kill()
        outbox.put(letter(2))
        eventually(lambda: outbox._failing)
        server.start()
        with redis.Redis.from_url(server.url) as client:

            def is_told() -> bool:
                outbox.put(letter(3))
                return "cmdstat_publish" in client.info("commandstats")

            eventually(is_told)
        eventually(lambda: not outbox._failing)
        outbox.stop(10)


def test_a_reply_goes_into_the_list_of_its_monitor_alone(redis_url: str) -> None:
    queue = f"ab.{REPLIES}"
    outbox = Outbox(lambda: Connection(redis_url))
    outbox.start()
    outbox.put(Letter({"w": {"ok": "pong"}}, headers={"ticket": "t"}, queue=queue))
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        eventually(lambda: client.llen(queue) == 1)
        assert json.loads(client.lindex(queue, 0))["headers"] == {"ticket": "t"}
    outbox.stop(10)
