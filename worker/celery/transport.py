"""How Celery and kombu read from Redis here: garbage does not kill the worker, a paused worker reads nothing, and
nothing that a monitor leaves behind stays.

Anyone who can write to the queue's list can put anything into it. Celery 5.7 on kombu 5.7 crashes on an item that is
not JSON (Channel._brpop_read), on one that is not a message (virtual.Message), and on a message with odd headers or
arguments (create_task_handler catches three kinds of error only). Here each of these is logged and dropped. A real job
whose message was damaged is still in the ledger, and the reconciler queues it again.

Monitors talk to workers through the same Redis database (monitors.py): requests and events by PUBLISH, which keeps
nothing, and replies in a list that the monitor names. kombu also notes in sets (`_kombu.binding.*`) who listens to
what, and removes those notes when a program ends as it should. A program that is killed leaves its notes and its list
for ever. So here lists of replies expire, and notes that no program reads are not made.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty
from typing import Any

import kombu
import redis
import structlog
from celery.worker.consumer import Consumer
from kombu.transport import TRANSPORT_ALIASES
from kombu.transport import redis as kombu_redis

from jobs.redis_errors import why_unavailable
from worker.celery import monitors
from worker.celery.remote_request import REPLIES

log = structlog.get_logger(__name__)

SHOWN_CHARACTERS = 120
# What Redis and the network raise. The transport's own lists do not help: kombu counts KeyError among its channel
# errors, and redis-py's DataError means that a stranger's value cannot be sent.
BROKER_ERRORS = (OSError, redis.ConnectionError, redis.TimeoutError, redis.ResponseError)
ALIAS = "tolerant-redis"  # the URL scheme of the transport below

# Since 5.7 kombu's event loop goes on when one of its connections is lost. Before, it would read no more jobs.
RECONNECTS = kombu.VERSION[:2] >= (5, 7)
REPLY_SECONDS = 60  # until an unread reply is gone; monitors wait for a second
NOTE_SECONDS = 5.0  # after our last reply to a monitor, until its note is removed
_KOMBUS_SEPARATOR = kombu_redis.Channel.sep  # in the notes of monitors that use kombu as it comes


def register() -> None:
    """Let kombu find the transport by its scheme.

    A scheme, because a transport class in Celery's `broker_transport` cannot be combined with a Unix socket's URL.
    """
    TRANSPORT_ALIASES[ALIAS] = "worker.celery.transport:TolerantTransport"


class TolerantQoS(kombu_redis.QoS):
    """kombu's record of deliveries, except that an entry that is not a message is dropped with a log line.

    Otherwise the first such entry would end every sweep for overdue messages before it reached the others. And messages
    of parked jobs do not count towards the prefetch.
    """

    def can_consume(self) -> bool:
        """Called by MultiChannelPoller before each BRPOP, in the event loop."""
        held = len(self._delivered) - len(self._dirty)
        return not self.prefetch_count or held - self.channel.parked_jobs() < self.prefetch_count

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Called by QoS.restore_visible, .restore_unacked and .reject."""
        try:
            super().restore_by_tag(tag, client=client, leftmost=leftmost)  # type: ignore[no-untyped-call]
        except BROKER_ERRORS:
            raise
        except Exception as error:  # noqa: BLE001 (the content is a stranger's)
            log.error(
                "garbage_among_deliveries", error=repr(error)[:SHOWN_CHARACTERS], tag=repr(tag)[:SHOWN_CHARACTERS]
            )
            self._remove_from_indices(tag).execute()  # type: ignore[no-untyped-call]


class TolerantChannel(kombu_redis.Channel):
    """kombu's Redis channel, except that an item that is not a message is dropped with a log line.

    And it asks for messages only while `is_paused()` is false.
    """

    QoS = TolerantQoS

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]
        self.is_paused: Callable[[], bool] = lambda: False
        self.parked_jobs: Callable[[], int] = lambda: 0
        self._answered: dict[str, float] = {}  # note of a monitor -> when we replied last

    def _brpop_start(self, *args: Any, **kwargs: Any) -> None:
        """Called by MultiChannelPoller.on_poll_start, in each turn of the event loop that begins without a BRPOP.

        To pause here is simpler than to cancel the consumer (Consumer.cancel_task_queue). A BRPOP that is under way may
        have popped a message already, which a cancelled consumer could not deliver. Here it arrives as always, and the
        thread of its job gives it back. There is nothing to undo after a reconnect, a shutdown or a resume.
        """
        if not self.is_paused():
            super()._brpop_start(*args, **kwargs)  # type: ignore[no-untyped-call]

    def _brpop_read(self, **options: Any) -> Any:
        """Called by MultiChannelPoller.on_readable, inside the event loop, where any error ends the worker.

        The item has left Redis by now, and is not among the unacknowledged: only a message is recorded there.
        """
        try:
            return super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except (Empty, *BROKER_ERRORS):
            raise
        except Exception as error:  # noqa: BLE001 (the content is a stranger's, and can cause any error)
            text = error.doc if isinstance(error, json.JSONDecodeError) else ""
            log.error("garbage_in_queue", error=repr(error)[:SHOWN_CHARACTERS], item=text[:SHOWN_CHARACTERS])
            return True

    def close(self) -> None:
        """Called twice by Celery when a connection is lost, the second time after the transport is gone.

        kombu waits for the answer to a BRPOP first. Where that fails, because another connection was found lost before
        this one, the first call would close nothing, and the second would end the worker.
        """
        self._closing = True
        if self._in_poll:
            with suppress(Empty, *BROKER_ERRORS):
                self._brpop_read()
        super().close()  # type: ignore[no-untyped-call]

    # -- monitors -------------------------------------------------------------------------------------------------

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        """Called for each queue that a consumer declares. The notes of fanout exchanges and replies are not read.

        kombu publishes to a fanout exchange without them, and a worker puts a reply into the list that a request names.
        """
        if self.typeof(exchange).type == "fanout":  # type: ignore[no-untyped-call]
            self._fanout_queues[queue] = (exchange, routing_key.replace("#", "*"))
        elif exchange != REPLIES:
            super()._queue_bind(exchange, routing_key, pattern, queue)  # type: ignore[no-untyped-call]

    def _put(self, queue: str, message: dict[str, Any], **kwargs: Any) -> None:
        """Put a message into a list. A reply expires, and the notes of the monitor that asked are removed later.

        A monitor that uses kombu as it comes, such as Flower, makes notes, and a kill leaves them behind. They are not
        removed at once: workers of other programs in the same database look there for where to reply.
        """
        if not queue.endswith(f".{REPLIES}"):
            super()._put(queue, message, **kwargs)  # type: ignore[no-untyped-call]
            return
        note = _KOMBUS_SEPARATOR.join((queue.removesuffix(f".{REPLIES}"), "", queue))
        with self.conn_or_acquire() as client, client.pipeline() as pipe:
            pipe.lpush(queue, json.dumps(message))
            pipe.expire(queue, REPLY_SECONDS)
            pipe.unlink(self.keyprefix_queue % "celeryev")  # of those that listen to events, which has no reader
            pipe.execute()
        self._answered[note] = time.monotonic()

    def _put_fanout(self, *args: Any, **kwargs: Any) -> None:
        """Called for each event, so at least with each heartbeat. Removes the notes of monitors that ask no more."""
        super()._put_fanout(*args, **kwargs)  # type: ignore[no-untyped-call]
        now = time.monotonic()
        if silent := [note for note, at in self._answered.items() if now - at > NOTE_SECONDS]:
            with self.conn_or_acquire() as client:
                client.srem(self.keyprefix_queue % REPLIES, *silent)
            self._answered = {note: at for note, at in self._answered.items() if note not in silent}

    def _handle_message(self, client: Any, response: Any) -> dict[str, Any]:
        """Called for each message that was published. kombu would log all of one that is not JSON, with a traceback."""
        payload: dict[str, Any] = super()._handle_message(client, response)  # type: ignore[no-untyped-call]
        is_message = payload["type"] in (b"message", b"pmessage", "message", "pmessage")
        if is_message and not _is_object(payload["data"]):
            log.error("garbage_from_monitor", error="not a JSON object", item=repr(payload["data"])[:SHOWN_CHARACTERS])
            payload["data"] = None  # passed over
        return payload

    def _receive_one(self, client: Any) -> Any:
        """Called for each message that was published, inside the event loop, as `_brpop_read`.

        Without this, a connection that only monitors need, once lost, would end those that jobs need: their messages
        would go back to the queue. If Redis itself is away, the others notice. kombu before 5.7 cannot reconnect it.
        """
        try:
            return super()._receive_one(client)  # type: ignore[no-untyped-call]
        except redis.exceptions.NoPermissionError as error:
            log.error("monitors_not_heard", error=why_unavailable(error), consequence="they do not see this worker")
            return True
        except (OSError, redis.ConnectionError, redis.TimeoutError) as error:
            if not RECONNECTS:
                raise
            log.warning("connection_of_monitors_lost", error=type(error).__name__)
            client.connection.disconnect()  # the event loop's next turn connects and subscribes again
            return False
        except (Empty, *BROKER_ERRORS):
            raise
        except Exception as error:  # noqa: BLE001 (as above)
            log.error("garbage_from_monitor", error=repr(error)[:SHOWN_CHARACTERS])
            return True


def _is_object(text: Any) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, TypeError, RecursionError):
        return False


class TolerantTransport(kombu_redis.Transport):
    """kombu's Redis transport with the channel above; `register` gives it its scheme."""

    Channel = TolerantChannel


class QuietConsumer(Consumer):  # type: ignore[misc]
    """`worker_consumer`: no gossip, mingle or events of Celery's own; a message that Celery cannot handle is dropped.

    Workers need not know each other: the ledger holds the heartbeats. Every broadcast would reach every worker, and
    mingle alone delays each start by a second. What monitors see is in monitors.py.
    """

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps, and one of our own."""

        default_steps = (*Consumer.Blueprint.default_steps, monitors.Monitors)

    def __init__(self, *args: Any, worker_options: dict[str, Any] | None = None, **kwargs: Any) -> None:
        quiet = {"without_gossip": True, "without_mingle": True, "without_heartbeat": True}
        kwargs["task_events"] = False
        super().__init__(*args, worker_options={**(worker_options or {}), **quiet}, **kwargs)
        if self.app.conf.worker_send_task_events:
            # For as long as the process lives: a job that outlasts a lost connection reports to the same one.
            self.event_dispatcher = monitors.event_dispatcher(self)

    def register_with_event_loop(self, hub: Any) -> None:
        """Called by loops.asynloop for each connection, before it consumes."""
        super().register_with_event_loop(hub)
        service = self.app.service
        self.task_consumer.channel.is_paused = lambda: service.fitness.paused is not None
        self.task_consumer.channel.parked_jobs = lambda: service.parked_jobs

    def create_task_handler(self, *args: Any, **kwargs: Any) -> Callable[[Any], None]:
        """Called by loops.asynloop, which makes the handler the consumer's on_message."""
        handle = super().create_task_handler(*args, **kwargs)

        def on_task_received(message: Any) -> None:
            try:
                handle(message)
            except BROKER_ERRORS:
                raise
            except Exception as error:  # noqa: BLE001 (as above)
                log.error("message_not_understood", error=repr(error)[:SHOWN_CHARACTERS], tag=message.delivery_tag)
                if not message.acknowledged:
                    message.ack_log_error(logging.getLogger(__name__), BROKER_ERRORS)

        return on_task_received
