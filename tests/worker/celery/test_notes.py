"""Where monitors wait for replies: their notes of it in Redis go, but not before other programs have replied."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery
from kombu import Connection

from worker.celery import transport
from worker.celery.remote_request import REPLIES
from worker.celery.transport import TolerantChannel, TolerantTransport

TABLE = f"_kombu.binding.{REPLIES}"
QUEUE = f"0a-0b.{REPLIES}"
NOTE = f"0a-0b\x06\x16\x06\x16{QUEUE}"


@pytest.fixture
def channel(redis_url: str) -> Iterator[TolerantChannel]:
    """That of an outbox."""
    with Connection(redis_url, transport=TolerantTransport) as connection:
        yield connection.channel()


def beat(channel: TolerantChannel) -> None:
    channel._put_fanout("celeryev", {}, "worker.heartbeat")


def test_a_worker_of_another_program_can_reply_after_ours(
    channel: TolerantChannel, redis_client: redis.Redis, redis_url: str
) -> None:
    redis_client.sadd(TABLE, NOTE)
    channel._put(QUEUE, {"body": "ours"})
    beat(channel)
    with Celery("other", broker=redis_url, set_as_current=False) as other, other.connection_for_write() as connection:
        other.control.mailbox(connection)._publish_reply({"other": "pong"}, REPLIES, "0a-0b", "t")
    assert redis_client.llen(QUEUE) == 2


def test_the_note_of_a_monitor_that_asks_no_more_goes(
    channel: TolerantChannel, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis_client.sadd(TABLE, NOTE, "another monitor's")
    channel._put(QUEUE, {"body": "ours"})
    monkeypatch.setattr(transport, "NOTE_SECONDS", -1.0)
    beat(channel)
    assert {str(note) for note in redis_client.smembers(TABLE)} == {"another monitor's"}
    redis_client.sadd(TABLE, NOTE)
    beat(channel)  # it was removed once, and is another one's since
    assert redis_client.scard(TABLE) == 2
