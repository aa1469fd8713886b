"""What a worker answers to monitors, and what it refuses: real workers, a real Redis, and Celery's own client."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis
from celery.worker.control import Panel

from jobs.ledger.ledger import Ledger
from jobs.ledger.message import celery_message
from jobs.ledger.reconcile import Reconciled, reconcile
from tests.eventually import eventually
from tests.integration.conftest import Site, StartSite
from tests.jobs.rows import enqueue
from tests.worker.monitor import REPLIES, Monitor, publish
from tests.worker.toy import StartToy, Toy
from tests.worker_process import WorkerProcess
from tools.embedded_redis import EmbeddedRedis
from worker.celery.inspection import INSTEAD, SERVED
from worker.celery.remote_request import NotUnderstood, RemoteRequest

SECRETS = ("hunter2", "0123abcdef", "a secret castle", "private.example.org")
PROMPT = "a secret castle, takes 600 s"
URL = "http://user:hunter2@private.example.org/p.png?X-Amz-Signature=0123abcdef"
ASKED_BY_FLOWER = ("stats", "active_queues", "registered", "scheduled", "active", "reserved", "revoked", "conf")


@dataclass
class Watched:
    """A worker with two jobs that do not end, seen by a monitor."""

    site: Site
    worker: WorkerProcess
    monitor: Monitor
    jobs: list[Any]

    @property
    def client(self) -> redis.Redis:
        return self.site.ledger.client

    def assert_unharmed(self) -> None:
        """It answers, has its jobs, waits for no more than before, and was never cut off from Redis."""
        assert self.monitor.ask_one("ping") == {"ok": "pong"}
        assert len(self.monitor.ask_one("active")) == 2
        assert (self.site.held, self.site.ledger.queue_length()) == (2, 1)
        assert self.site.ledger.counts("b").running == 2
        assert self.worker.output.count("consumer: Connection to broker lost") == 0
        assert "Traceback" not in self.worker.output


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("watched")
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        site = Site(folder, server.url, Ledger(client))
        worker = site.start(celery_events="true", jobs_in_flight=2, grace_seconds=0)
        try:
            jobs = [site.job(row, prompt=PROMPT) for row in (1, 2, 3)]
            # The second as a program would send it that lets Celery write down the arguments.
            enqueue(site.ledger, [jobs[0]])
            eventually(lambda: site.held == 1)
            message = json.loads(celery_message(jobs[1], queue="render"))
            message["headers"] |= {"argsrepr": PROMPT, "kwargsrepr": URL, "shadow": PROMPT}
            client.lpush("render", json.dumps(message))
            eventually(lambda: site.held == 2)
            enqueue(site.ledger, jobs[2:])
            with Monitor(server.url) as monitor:
                eventually(lambda: site.ledger.counts("b").running == 2)
                yield Watched(site, worker, monitor, jobs)
        finally:
            worker.kill()


# -- what is served ---------------------------------------------------------------------------------------------------


def test_jobs_are_shown_by_id_batch_and_row_and_by_nothing_else(watched: Watched) -> None:
    active = {job["id"]: job for job in watched.monitor.ask_one("active")}
    assert set(active) == {job.id for job in watched.jobs[:2]}
    for job in watched.jobs[:2]:
        shown = active[job.id]
        assert (shown["name"], shown["args"]) == ("render", f"({job.id},)")
        assert shown["kwargs"] == repr({"batch": "b", "row": job.row})
        assert (shown["worker_pid"], shown["acknowledged"]) == (watched.worker.pid, False)
    state, info = watched.monitor.ask_one("query_task", ids=[watched.jobs[0].id])[watched.jobs[0].id]
    assert (state, info) == ("active", active[watched.jobs[0].id])
    assert watched.monitor.ask_one("query_task", ids="unknown") == {}
    # Each message that a worker has taken has a thread.
    assert watched.monitor.ask_one("reserved") == []


def test_stats_name_the_worker_as_the_ledger_does(watched: Watched) -> None:
    ((node, stats),) = watched.monitor.ask("stats").items()
    (name,) = watched.site.ledger.workers()
    assert stats["render"] == {"worker": name, "paused": None, "draining": False}
    assert node.startswith(f"{name}@")
    assert stats["pid"] == watched.worker.pid
    assert stats["total"] == {"render": 2}
    assert stats["pool"]["threads"] == 2
    port = int(watched.site.redis_url.rpartition(":")[2].partition("/")[0])
    assert stats["broker"] == {"transport": "redis", "hostname": "127.0.0.1", "port": port, "virtual_host": "0"}


def test_the_rest_of_inspection_is_served(watched: Watched) -> None:
    assert watched.monitor.ask_one("registered") == ["render"]
    assert watched.monitor.ask_one("scheduled") == watched.monitor.ask_one("revoked") == []
    assert [queue["name"] for queue in watched.monitor.ask_one("active_queues")] == ["render"]
    assert watched.monitor.ask_one("clock")["clock"] > 0
    assert watched.monitor.ask_one("conf", with_defaults=True)["task_default_queue"] == "render"
    assert watched.monitor.ask_one("heartbeat") == {"ok": "heartbeat sent"}


def test_no_answer_and_no_log_line_holds_a_prompt_a_url_or_a_setting_that_may_be_a_secret(watched: Watched) -> None:
    text = json.dumps({command: watched.monitor.ask_one(command) for command in SERVED})
    text += watched.worker.output
    assert watched.jobs[0].id in text
    for secret in (*SECRETS, watched.site.picture.name, "redis://", "broker_url"):
        assert secret not in text


def test_a_request_names_its_workers_one_by_one_or_by_a_pattern(watched: Watched) -> None:
    (node,) = watched.monitor.ask("ping")
    assert watched.monitor.ask("ping", to=[node, "other@host"]) == {node: {"ok": "pong"}}
    control = watched.monitor.app.control
    assert control.broadcast("ping", destination=["other@host"], reply=True, timeout=0.5) == []
    found = control.broadcast("ping", pattern=f"{node[:3]}*", matcher="glob", reply=True, limit=1, timeout=10)
    assert found == [{node: {"ok": "pong"}}]
    assert control.broadcast("ping", pattern="other*", matcher="glob", reply=True, timeout=0.5) == []


# -- what is refused --------------------------------------------------------------------------------------------------

REFUSED = [*sorted(set(Panel.data) - set(SERVED)), "tomorrows_command", "__class__", "answer", "", "_ping"]


def test_everything_else_is_refused_with_a_sentence_and_changes_nothing(watched: Watched) -> None:
    assert {"shutdown", "revoke", "terminate", "pool_grow", "pool_restart", "add_consumer", "election"} <= set(REFUSED)
    id_ = watched.jobs[0].id
    arguments: dict[str, Any] = {"task_id": [id_], "terminate": True, "signal": "KILL", "queue": "other", "n": 1}
    for command in REFUSED:
        (reply,) = watched.monitor.ask(command, **arguments).values()
        assert list(reply) == ["error"], command
        assert reply["error"].startswith(f"refused: {command}: "), command
    watched.assert_unharmed()


def test_celerys_own_calls_are_refused_too(watched: Watched) -> None:
    control, id_ = watched.monitor.app.control, watched.jobs[0].id
    answer: dict[str, Any] = {"reply": True, "limit": 1, "timeout": 10}
    calls = [
        lambda: control.shutdown(**answer),
        lambda: control.revoke(id_, terminate=True, signal="SIGKILL", **answer),
        lambda: control.terminate(id_, **answer),
        lambda: control.pool_shrink(1, **answer),
        lambda: control.pool_restart(**answer),
        lambda: control.autoscale(4, 2, **answer),
        lambda: control.add_consumer("other", **answer),
        lambda: control.cancel_consumer("render", **answer),
        lambda: control.rate_limit("render", "1/h", **answer),
        lambda: control.time_limit("render", soft=1, hard=2, **answer),
    ]
    for call in calls:
        ((reply,),) = [list(each.values()) for each in call()]
        assert reply["error"].startswith("refused: ")
    control.election("id", "topic")
    watched.assert_unharmed()


def test_every_command_of_celerys_is_either_served_or_has_a_sentence_of_its_own() -> None:
    """A new one falls into the list's general sentence; this test says that somebody should look at it."""
    assert set(Panel.data) - set(SERVED) <= set(INSTEAD)
    assert not set(SERVED) & set(INSTEAD)


# -- what strangers publish -------------------------------------------------------------------------------------------

ODD_BODIES: list[Any] = [
    None, 5, "shutdown", [], ["ping"], {}, {"method": None}, {"method": ["ping"]}, {"method": "x" * 5000},
    {"method": "ping", "arguments": [1]}, {"method": "ping", "arguments": "x"}, {"method": "ping", "destination": 5},
    {"method": "ping", "reply_to": "x"}, {"method": "ping", "reply_to": {"exchange": "", "routing_key": "render"}},
    {"method": "ping", "reply_to": {"exchange": REPLIES, "routing_key": "render:batches"}},
    {"method": "ping", "reply_to": {"exchange": "render", "routing_key": "render"}, "ticket": "t"},
    {"method": "ping", "pattern": "(x+x+)+y", "matcher": "pcre"}, {"method": "ping", "pattern": "*", "matcher": "no"},
    {"method": "query_task", "arguments": {"ids": 5}}, {"method": "query_task", "arguments": {"ids": [[], {}]}},
    {"method": "ping", "arguments": {"state": 1, "self": 2}},
]  # fmt: skip


def test_whatever_is_published_to_its_channels_a_worker_goes_on(watched: Watched) -> None:
    keys = set(watched.client.keys())
    for body in ODD_BODIES:
        publish(watched.client, body)
    publish(watched.client, {"method": "ping"}, **{"content-type": "application/x-python-serialize"})
    publish(watched.client, {"method": "ping"}, properties=5)
    publish(watched.client, {"method": "ping"}, headers={"clock": "x"})
    for text in (b"", b"\xff\xfe", b"{", b"5", b"null", b'"x"', b"[]", b"{}", b'{"properties": {}}', b"[" * 100_000):
        watched.client.publish("/0.celery.pidbox", text)
    eventually(lambda: watched.worker.events("garbage_from_monitor"))
    eventually(lambda: watched.worker.events("monitor_not_understood"))
    assert watched.worker.events("monitor_not_answered") == []
    watched.assert_unharmed()
    assert {key for key in set(watched.client.keys()) - keys if "kombu" not in key} == set()


@pytest.mark.parametrize("routing_key", ["", "render", "*", "a" * 65, "ab.reply", "AB"])
def test_a_reply_goes_to_a_queue_of_replies_only(routing_key: str) -> None:
    with pytest.raises(NotUnderstood, match="routing_key"):
        RemoteRequest.parse({"method": "ping", "reply_to": {"exchange": REPLIES, "routing_key": routing_key}})


# -- what is left in Redis --------------------------------------------------------------------------------------------


def test_a_monitor_that_dies_leaves_a_reply_that_expires_and_no_note_of_itself(watched: Watched) -> None:
    queue, note = f"0a-0b.{REPLIES}", f"_kombu.binding.{REPLIES}"
    watched.client.sadd(note, f"0a-0b\x06\x16\x06\x16{queue}", "another monitor's")
    watched.client.sadd("_kombu.binding.celeryev", "that of a Flower that was killed")
    publish(
        watched.client,
        {"method": "ping", "reply_to": {"exchange": REPLIES, "routing_key": "0a-0b"}, "ticket": "t"},
    )
    eventually(lambda: watched.client.exists(queue))
    assert 0 < watched.client.ttl(queue) <= 60
    assert not watched.client.exists("_kombu.binding.celeryev")
    eventually(lambda: watched.client.smembers(note) == {"another monitor's"})
    watched.client.delete(queue, note)


def test_requests_leave_nothing_in_redis(watched: Watched) -> None:
    watched.monitor.ask_one("ping")
    before = set(watched.client.keys())
    for command in ASKED_BY_FLOWER:
        watched.monitor.ask_one(command)
    assert set(watched.client.keys()) == before
    assert not [key for key in before if "pidbox" in key or "celeryev" in key]


def test_the_ledger_takes_no_request_for_a_job(watched: Watched) -> None:
    """Neither the reconciler nor the lengths that a scaler reads count any of them."""
    for _ in range(3):
        watched.monitor.tell("enable_events")
        watched.monitor.ask_one("stats")
    assert reconcile(watched.site.ledger, lease_seconds=1.0, settle_seconds=0.05) == Reconciled()
    assert set(watched.site.ledger.kombu.delivered()) == {job.id for job in watched.jobs[:2]}
    watched.assert_unharmed()


# -- faults -----------------------------------------------------------------------------------------------------------


def test_a_lost_connection_to_its_channels_costs_no_job_anything(watched: Watched) -> None:
    watched.client.client_kill_filter(_type="pubsub")
    eventually(watched.monitor.is_answered)
    watched.assert_unharmed()


def test_workers_of_one_host_have_different_names(site: Site) -> None:
    for _ in range(2):
        site.start(celery_events="true")
    eventually(lambda: len(site.ledger.workers()) == 2 and site.workers_waiting == 2)
    with Monitor(site.redis_url) as monitor:
        pids = {stats["pid"]: node for node, stats in monitor.ask("stats", workers=2).items()}
    assert set(pids) == {worker.pid for worker in site.started}


def test_redis_goes_away_and_comes_back(start_site: StartSite, tmp_path: Path) -> None:
    with EmbeddedRedis(tmp_path / "redis") as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        site = start_site(server.url, Ledger(client))
        site.start(celery_events="true")
        jobs = site.enqueue(6, seconds=1)
        eventually(lambda: site.ledger.counts("b").running)
        for _ in range(2):
            server.kill()
            client.connection_pool.disconnect()
            server.start()
            with Monitor(server.url) as monitor, monitor.watching() as watch:
                eventually(monitor.is_answered)
                eventually(lambda: "worker-heartbeat" in watch.of_workers())
        site.reconcile_until_done(6)
        site.assert_all_done_once(jobs, after_a_fault=True)


def test_sigterm_while_redis_is_away_ends_a_worker_that_monitors_watch(start_site: StartSite) -> None:
    with EmbeddedRedis() as server, redis.Redis.from_url(server.url, decode_responses=True) as client:
        site = start_site(server.url, Ledger(client))
        worker = site.start(celery_events="true", grace_seconds=0)
        site.enqueue(2, seconds=600)
        eventually(lambda: site.ledger.counts("b").running == 2)
        server.kill()
        eventually(lambda: worker.events("heartbeat_failed"))
        worker.terminate()
        assert worker.exit_code(seconds=60) == 0


def test_sigterm_in_mid_batch_gives_everything_back_and_monitors_see_the_drain(site: Site) -> None:
    worker = site.start(celery_events="true", jobs_in_flight=3)
    jobs = site.enqueue(5, seconds=600)
    eventually(lambda: site.ledger.counts("b").running == 3)
    with Monitor(site.redis_url) as monitor, monitor.watching() as watch:
        worker.terminate()
        eventually(lambda: worker.events("draining"))
        assert monitor.ask_one("stats")["render"]["draining"]
        assert len(monitor.ask_one("active")) == 3
        worker.terminate()
        assert worker.exit_code() == 0
        eventually(lambda: watch.of_workers()[-1:] == ["worker-offline"])
        started = {event["uuid"] for event in watch.of_jobs()}
        assert len(started) == 3
        assert all(watch.of(id_) == ["task-retried"] for id_ in started)
    assert (site.held, site.ledger.queue_length()) == (0, 5)
    assert site.ledger.counts("b").queued == len(jobs)


def test_a_cold_shutdown_says_goodbye_too(site: Site) -> None:
    worker = site.start(celery_events="true", grace_seconds=0)
    site.enqueue(2, seconds=600)
    eventually(lambda: site.ledger.counts("b").running == 2)
    with Monitor(site.redis_url) as monitor, monitor.watching() as watch:
        worker.signal(signal.SIGQUIT)
        worker.exit_code()
        eventually(lambda: watch.of_workers()[-1:] == ["worker-offline"])
        assert {event["type"] for event in watch.of_jobs()} == {"task-retried"}
    assert (site.held, site.ledger.queue_length()) == (0, 2)


def test_a_paused_worker_answers_and_takes_nothing(toy: Toy, start_toy: StartToy, redis_url: str) -> None:
    worker = start_toy(events=1, prefetch=2)
    toy.send(0)
    toy.wait_for("end")
    toy.pause()
    eventually(lambda: not toy.asks)
    toy.send(0)
    with Monitor(redis_url) as monitor:
        assert monitor.ask_one("stats")["render"]["paused"] == "as told"
        assert monitor.ask_one("active") == []
        assert toy.waiting == 1
        toy.resume()
        toy.wait_for("end")
    worker.terminate()
    assert worker.exit_code() == 0


def test_a_redis_user_who_may_not_use_channels_renders_all_the_same(start_site: StartSite, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url, decode_responses=True) as client:
        client.execute_command("ACL", "SETUSER", "worker", "on", ">pw", "+@all", "~*", "resetchannels")
        try:
            site = start_site(redis_url, Ledger(client))
            worker = site.start(celery_events="true", redis_url=redis_url.replace("//", "//worker:pw@"))
            site.assert_all_done_once(_done(site, 3))
            eventually(lambda: worker.events("monitors_not_heard") and worker.events("monitors_not_told"))
            assert "consumer: Connection to broker lost" not in worker.output
            worker.terminate()
            assert worker.exit_code() == 0
        finally:
            client.execute_command("ACL", "DELUSER", "worker")


def _done(site: Site, number: int) -> list[Any]:
    jobs = site.enqueue(number)
    site.wait_until_done(number)
    return jobs


def test_without_the_setting_a_worker_is_deaf_and_mute(site: Site) -> None:
    site.start()
    site.wait_until_done(len(site.enqueue(1)))
    client = site.ledger.client
    assert client.pubsub_numpat() == 0
    client.config_resetstat()
    enqueue(site.ledger, [site.job(2)])
    site.wait_until_done(2)
    assert "cmdstat_publish" not in client.info("commandstats")
