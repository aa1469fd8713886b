"""Anyone who can write to Redis can put anything into the queue: the worker goes on, and no real job is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from jobs.ledger.message import celery_message
from tests.eventually import eventually
from tests.integration.conftest import Site

Message = dict[str, Any]


def changed(site: Site, change: Callable[[Message], object]) -> str:
    """A real message, damaged."""
    message: Message = json.loads(celery_message(site.job(99), queue="render"))
    change(message)
    return json.dumps(message)


def body_of(body: str) -> Callable[[Message], object]:
    return lambda message: message.update(body=body)


def more_headers(headers: Message) -> Callable[[Message], object]:
    return lambda message: message["headers"].update(headers)


def garbage(site: Site) -> list[str]:
    bodies = ["", "not json", "5", "[]", "[[]]", "{}", "[[], {}, {}, {}]", "[5, 5, 5]", "[[], [], {}]"]
    arguments = [[], [5], [None], ["{}"], ["not a job"], ["{}", "{}"], [{"id": 1}]]
    no_items = ["", "not json", "{", "5", "null", "[]", '"text"', "{}", '{"properties": {}}', '{"body": "x"}', "\x00"]
    headers: list[Message] = [
        {"task": "nobody.knows"},
        {"task": 5},
        {"task": ["render"]},
        {"task": None},
        {"id": None},
        {"id": ["x"]},
        {"eta": "yesterday"},
        {"eta": 5},
        {"expires": "never"},
        {"expires": "2001-01-01T00:00:00"},
        {"timelimit": "soon"},
        {"stamped_headers": 5},
        {"compression": "unheard-of"},
        {"compression": 5},
        {"group": 5, "retries": "x", "lang": "js"},
    ]
    return [
        *no_items,
        *(changed(site, body_of(body)) for body in bodies),
        *(changed(site, body_of(json.dumps([args, {}, {}]))) for args in arguments),
        changed(site, lambda m: m.update(body=json.dumps([["{}"], {"surprise": 1}, {}]))),
        changed(site, lambda m: m.update(body=json.dumps([["{}"], {}, {"callbacks": 5, "chain": 5}]))),
        changed(site, lambda m: m.update(body={"not": "text"})),
        changed(site, lambda m: m.update(body=5)),
        *(changed(site, more_headers(new)) for new in headers),
        changed(site, lambda m: m["headers"].pop("id")),
        changed(site, lambda m: m["headers"].pop("task")),
        changed(site, lambda m: m.update(headers=None)),
        changed(site, lambda m: m.update(headers=[])),
        changed(site, lambda m: m.update(headers="text")),
        changed(site, lambda m: m.update({"content-type": "application/x-python-serialize"})),
        changed(site, lambda m: m.update({"content-type": 5})),
        changed(site, lambda m: m.update({"content-encoding": "unheard-of"})),
        changed(site, lambda m: m["properties"].update(body_encoding="base64")),
        changed(site, lambda m: m["properties"].update(body_encoding="unheard-of")),
        changed(site, lambda m: m["properties"].update(delivery_tag=["x"])),
        changed(site, lambda m: m["properties"].update(delivery_tag=None)),
        changed(site, lambda m: m["properties"].update(delivery_info="text")),
        changed(site, lambda m: m["properties"].update(delivery_info={})),
        changed(site, lambda m: m["properties"].update(priority="high")),
        changed(site, lambda m: m["properties"].pop("delivery_tag")),
        changed(site, lambda m: m.pop("properties")),
    ]


def test_garbage_among_the_jobs_is_dropped_with_a_line_and_the_jobs_are_rendered(site: Site) -> None:
    items = garbage(site)
    jobs = []
    client = site.ledger.client
    for row, item in enumerate(items, start=1):
        client.lpush("render", item)
        jobs.append(site.job(row))
        site.ledger.enqueue(jobs[-1:])
    worker = site.start(jobs_in_flight=4)
    eventually(lambda: site.ledger.queue_length() == 0 or not worker.alive, seconds=30)
    eventually(lambda: site.held == 0 or not worker.alive, seconds=10, what="nothing stays unacknowledged")
    assert worker.alive, worker.output[-3000:]
    site.wait_until_done(len(jobs))
    assert {job.id for job in jobs} <= {result.id for result in site.ledger.results("b") if result.state == "done"}
    assert site.events("garbage_in_queue")
    assert site.events("message_not_understood")
    assert site.events("bad_message")


def test_a_worker_fed_nothing_but_garbage_still_answers_to_sigterm(site: Site) -> None:
    site.ledger.client.lpush("render", *["not json"] * 500)
    worker = site.start()
    eventually(lambda: len(site.events("garbage_in_queue")) == 500)
    worker.terminate()
    assert worker.exit_code() == 0


def test_garbage_among_the_delivered_messages_does_not_keep_an_overdue_one_from_coming_back(site: Site) -> None:
    client = site.ledger.client
    (job,) = site.enqueue(1)
    message = json.loads(str(client.rpop("render")))
    client.hset("unacked", "overdue", json.dumps([message, "", "render"]))
    client.zadd("unacked_index", {"overdue": 1.0})
    items: list[str | bytes] = ["not json", "5", "[]", "[1, 2]", '["x", "", "render"]', "{}", b"\xff\xfe"]
    for number, item in enumerate(items):
        client.hset("unacked", f"garbage-{number}", item)
        client.zadd("unacked_index", {f"garbage-{number}": 2.0 + number})  # newer: the sweep begins with them
    client.hset("unacked", b"\xff", "no text for a tag")
    client.zadd("unacked_index", {b"\xff": 9.0})
    worker = site.start(visibility_timeout_seconds=5)
    site.wait_until_done(1)
    eventually(lambda: site.held == 0 or not worker.alive)
    assert worker.alive
    assert [result.id for result in site.ledger.results("b")] == [job.id]
    assert site.events("garbage_among_deliveries")
