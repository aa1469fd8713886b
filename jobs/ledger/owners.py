"""Owners: the live workers, and which jobs they have, as the reconciler needs to know it."""

from __future__ import annotations

from dataclasses import dataclass

from jobs.ledger.kombu_view import Delivered
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Heartbeat, JobState


@dataclass(frozen=True)
class Owners:
    """The live workers. `forgiving` right after a restart of Redis: heartbeats expired while it was away.

    `now` is in seconds since the epoch, by Redis' clock.
    """

    live: dict[str, Heartbeat]
    in_flight: frozenset[str]
    lease_seconds: float
    forgiving: bool
    now: float

    @classmethod
    def of(cls, ledger: Ledger, lease_seconds: float) -> Owners:
        """Ask for the live workers. The uptime is read after the heartbeats, so that a restart between them shows."""
        live = ledger.workers()
        in_flight = frozenset(id_ for beat in live.values() for id_ in beat.in_flight)
        forgiving = ledger.seconds_up() < lease_seconds
        return cls(live, in_flight, lease_seconds, forgiving, ledger.server_time())

    def hold(self, line: JobState) -> bool:
        """Whether a live worker has this running job."""
        beat = self.live.get(line.worker or "")
        if beat is None:
            return self.forgiving
        # A ledger that lost its last second may say `running` of a job that its worker has ended and forgotten. Both
        # times come from the worker's own clock.
        return line.id in beat.in_flight or beat.at - (line.since or 0.0) < self.lease_seconds

    def ignore(self, job_id: str, message: Delivered) -> bool:
        """Whether no live worker knows of a message that was delivered long ago.

        A live worker starts at once what is delivered to it, unless it waits for a turn; then its heartbeat has the
        job. A delivery in the future is the work of a wrong clock, so that nothing is known of its age.
        """
        is_old = message.since is None or abs(self.now - message.since) > self.lease_seconds
        return is_old and job_id not in self.in_flight

    def have(self, line: JobState) -> bool:
        """Whether a live worker has this job, started or not."""
        return self.hold(line) if line.worker is not None else line.id in self.in_flight
