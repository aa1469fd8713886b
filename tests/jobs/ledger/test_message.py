"""The queue item: filled as text, read as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest

from jobs.errors import InvalidJob
from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.ledger.message import celery_message, message_for
from tests.jobs.rows import enqueue, make_job


def read(message: str) -> tuple[dict[str, Any], RenderJob]:
    """The envelope and the job in it, as kombu and Celery would take them apart."""
    envelope = json.loads(message)
    (text,), keywords, embed = json.loads(envelope["body"])
    assert keywords == {}
    assert set(embed) == {"callbacks", "errbacks", "chain", "chord"}
    return envelope, RenderJob.from_json(text)


@pytest.mark.parametrize("prompt", ['a "quoted" cat\n', "<body>", '"<body>" <id> <tag>', "\\ \\n \u2028 é 猫 {} []"])
def test_a_job_arrives_as_it_was_whatever_its_prompt(prompt: str) -> None:
    job = make_job(prompt=prompt)
    envelope, arrived = read(celery_message(job, queue="render"))
    assert arrived == job
    assert envelope["headers"]["id"] == envelope["properties"]["correlation_id"] == job.id


def test_every_item_has_a_delivery_tag_of_its_own() -> None:
    tags = {read(celery_message(make_job(), queue="render"))[0]["properties"]["delivery_tag"] for _ in range(100)}
    assert len(tags) == 100


def test_the_queue_is_the_routing_key() -> None:
    envelope, _ = read(celery_message(make_job(), queue="nightly"))
    assert envelope["properties"]["delivery_info"]["routing_key"] == "nightly"


def test_neither_prompt_nor_picture_is_in_what_celery_logs() -> None:
    envelope, _ = read(celery_message(make_job(prompt="secret", image="s3://secret/x"), queue="render"))
    assert "secret" not in json.dumps(envelope["headers"])


def test_a_chinese_prompt_takes_three_bytes_a_character(ledger: Ledger) -> None:
    short, long = (len(celery_message(make_job(prompt="猫" * n), queue="render").encode()) for n in (1000, 2000))
    assert long - short == 3000
    job = make_job(prompt='猫"\\ \U0001f431 ' * 100)
    enqueue(ledger, [job])
    assert list(ledger.kombu.queued_ids()) == [job.id]
    assert read(str(ledger.client.rpop(ledger.queue)))[1] == job


def test_half_a_surrogate_pair_does_not_stop_the_messages_beside_it(ledger: Ledger) -> None:
    good = make_job(prompt="猫")
    text = good.model_dump_json().replace("猫", "\ud83d")  # no producer of ours writes that
    ledger.client.lpush(ledger.queue, message_for(good.id, text, queue=ledger.queue))
    envelope = json.loads(str(ledger.client.rpop(ledger.queue)))
    with pytest.raises(InvalidJob):
        RenderJob.from_json(json.loads(envelope["body"])[0][0])
