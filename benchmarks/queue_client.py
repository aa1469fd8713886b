"""What one worker does with Redis, and nothing else: it takes real messages, and moves real jobs in the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kombu import Connection

from benchmarks.sample_jobs import result_of
from jobs.job import RenderJob
from jobs.ledger.ledger import Ledger
from jobs.settings import Settings
from worker.celery import transport
from worker.celery.app import broker_url, configuration

FOR_EVER_SECONDS = 7 * 86_400.0  # a lease in real time: the simulation ends leases in its own time


@dataclass(frozen=True, eq=False)  # by identity: a comparison of two jobs takes long
class Held:
    """A job that a worker has: its message is delivered and not acknowledged."""

    job: RenderJob
    message: Any


def connect(settings: Settings) -> Connection:
    """A connection through our kombu transport."""
    transport.register()
    options = configuration(settings)["broker_transport_options"]
    return Connection(broker_url(settings.redis_url), transport_options=options)


class QueueClient:
    """One worker's channel to the queue, and its name in the ledger."""

    def __init__(self, name: str, connection: Connection, ledger: Ledger) -> None:
        self.name = name
        self._ledger = ledger
        self._channel = connection.channel()
        self.held: list[Held] = []
        self.beat()

    def beat(self) -> None:
        """Say which jobs this worker has."""
        in_flight = [held.job.id for held in self.held]
        self._ledger.beat(self.name, in_flight=in_flight, lease_seconds=FOR_EVER_SECONDS)

    def take(self) -> bool:
        """Take one message and start its job; False if no message waits."""
        while (message := self._channel.basic_get(self._ledger.queue)) is not None:
            job = RenderJob.from_json(message.payload[0][0])
            if self._ledger.start(job, worker=self.name).decision == "run":
                self.held.append(Held(job, message))
                return True
            message.ack()
        return False

    def finish(self, held: Held) -> bool:
        """Record a job as done and acknowledge its message; False where it was done before."""
        first = self._ledger.finish(result_of(held.job, self.name))
        held.message.ack()
        self.held.remove(held)
        return first

    def give_back(self, held: Held) -> None:
        """As a worker that was told to stop: the job is queued again at no attempt, and its message too."""
        self._ledger.nack(held.job, worker=self.name)
        held.message.reject(requeue=True)
        self.held.remove(held)

    def close(self) -> None:
        """Leave. Nothing may be held any more."""
        assert not self.held
        self._ledger.retire(self.name)
        self._channel.close()

    def die(self) -> None:
        """As after kill -9: what is held stays with the dead worker until its lease ends (`Ledger.retire`)."""
        self._channel.do_restore = False
        self._channel.close()
