"""A Deployment of workers in virtual time: real messages and a real ledger, and a pause in place of rendering.

A GPU is a pod that starts for a while, holds up to `in_flight` jobs and finishes one of them every
1 / `jobs_per_second`. Told to stop, it finishes those of its running batch that end within the grace period and gives
the others back, as worker/celery/pool.py does. Killed, it leaves them to its lease and to the reconciler.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from benchmarks.queue_client import Held, QueueClient
from benchmarks.virtual_clock import VirtualClock

LEASE_SECONDS = 10.0  # RENDER_LEASE_SECONDS
ROUNDING_SECONDS = 1e-6


@dataclass(frozen=True)
class Gpu:
    """One GPU's figures. `cold_start_seconds` pass between asking for a pod and its first job."""

    jobs_per_second: float
    cold_start_seconds: float
    in_flight: int = 16  # RENDER_JOBS_IN_FLIGHT
    batch: int = 8
    grace_seconds: float = 30.0  # RENDER_GRACE_SECONDS


@dataclass
class Seconds:
    """GPU time, from asking for a pod to its end."""

    paid: float = 0.0
    starting: float = 0.0
    rendering: float = 0.0  # of jobs that were finished

    @property
    def idle(self) -> float:
        """Ready, and not rendering what was finished."""
        return self.paid - self.starting - self.rendering


@dataclass
class Record:
    """What happened to jobs and pods."""

    begun: dict[str, list[float]] = field(default_factory=dict)  # job id -> when its rendering began
    done: dict[str, float] = field(default_factory=dict)
    finished_again: int = 0
    pods: int = 0
    stopped_with_jobs: int = 0  # pods that held jobs when they were told to stop
    given_back: int = 0
    seconds: Seconds = field(default_factory=Seconds)
    gpus: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])  # pods over time


@dataclass(frozen=True)
class World:
    """What all pods share."""

    clock: VirtualClock
    gpu: Gpu
    record: Record
    connect: Callable[[str], QueueClient]
    changed: Callable[[], None]  # a pod has gone, or given jobs back
    lease_ended: Callable[[str], None]


class SimulatedGpu:
    """One pod."""

    def __init__(self, name: str, world: World) -> None:
        self.name = name
        self.gone = self.leaving = False
        self._world = world
        self._client: QueueClient | None = None  # once it is ready
        self._since = self._ready = world.clock.now
        self._due = 0.0  # when the job that comes next is done
        self._begun: set[str] = set()
        world.clock.at(world.clock.now + world.gpu.cold_start_seconds, self._become_ready)

    @property
    def ready(self) -> bool:
        """Whether it takes jobs."""
        return self._client is not None and not self.leaving

    @property
    def held(self) -> list[Held]:
        """The jobs that it has, those that run first."""
        return self._client.held if self._client else []

    def take(self) -> bool:
        """Take one job if there is room and one waits."""
        if not self._client or self.leaving or len(self.held) >= self._world.gpu.in_flight or not self._client.take():
            return False
        self._begin()
        if len(self.held) == 1:
            self._render_next()
        return True

    def beat(self) -> None:
        """A heartbeat, with which the reconciler knows what it holds."""
        if self._client and not self.gone:
            self._client.beat()

    def stop(self) -> None:
        """Stop as a worker does on SIGTERM."""
        if self._client is None:
            return self._end()
        self.leaving = True
        gpu, left = self._world.gpu, self._due - self._world.clock.now
        finishing = [
            held
            for place, held in enumerate(self.held[: gpu.batch])
            if left + place / gpu.jobs_per_second <= gpu.grace_seconds + ROUNDING_SECONDS
        ]
        self._world.record.stopped_with_jobs += bool(self.held)
        for held in reversed([held for held in self.held if held not in finishing]):
            self._client.give_back(held)
            self._world.record.given_back += 1
        self._world.changed()
        if not finishing:
            self._end()

    def kill(self) -> None:
        """SIGKILL: what it holds stays unacknowledged until its lease ends."""
        if self._client is not None:
            self._world.record.stopped_with_jobs += bool(self.held)
            self._client.die()
            clock = self._world.clock
            clock.at(clock.now + LEASE_SECONDS, partial(self._world.lease_ended, self.name))
        self._end()

    def _become_ready(self) -> None:
        if not self.gone:
            self._client = self._world.connect(self.name)
            self._ready = self._world.clock.now
            while self.take():
                pass

    def _begin(self) -> None:
        for held in self.held[: self._world.gpu.batch]:
            if held.job.id not in self._begun:
                self._begun.add(held.job.id)
                self._world.record.begun.setdefault(held.job.id, []).append(self._world.clock.now)

    def _render_next(self) -> None:
        self._due = self._world.clock.now + 1 / self._world.gpu.jobs_per_second
        self._world.clock.at(self._due, partial(self._complete, self.held[0]))

    def _complete(self, held: Held) -> None:
        if self.gone or held not in self.held or self._client is None:
            return
        record = self._world.record
        record.seconds.rendering += 1 / self._world.gpu.jobs_per_second
        if self._client.finish(held):
            record.done[held.job.id] = self._world.clock.now
        else:
            record.finished_again += 1
        if self.held:
            self._begin()
            self._render_next()
        if self.leaving:
            if not self.held:
                self._end()
        else:
            self.take()

    def _end(self) -> None:
        now, seconds = self._world.clock.now, self._world.record.seconds
        seconds.paid += now - self._since
        seconds.starting += (self._ready if self._client else now) - self._since
        self.gone = self.leaving = True
        if self._client and not self.held:
            self._client.close()
        self._world.changed()


class SimulatedDeployment:
    """Pods, as a ReplicaSet adds and removes them."""

    def __init__(self, world: World, *, kill: bool = False) -> None:
        self._world = world
        self._kill = kill
        self._pods: list[SimulatedGpu] = []  # the oldest first; also those that are leaving

    @property
    def replicas(self) -> int:
        """Pods that are wanted: those that start or are ready."""
        return sum(not pod.leaving for pod in self._pods)

    @property
    def pods(self) -> list[SimulatedGpu]:
        """All that are there."""
        return self._pods

    def scale(self, replicas: int) -> None:
        """Start pods or stop some: first those that are not ready, then the newest."""
        for _ in range(replicas - self.replicas):
            self._world.record.pods += 1
            self._pods.append(SimulatedGpu(f"gpu-{self._world.record.pods}", self._world))
        wanted = [pod for pod in reversed(self._pods) if not pod.leaving]
        surplus = sorted(wanted, key=lambda pod: pod.ready)[: max(0, len(wanted) - replicas)]
        for pod in surplus:
            if self._kill:
                pod.kill()
            else:
                pod.stop()
        self.note()

    def feed(self) -> None:
        """Let the ready pods take what waits, one job after the other, as Redis serves those that wait in turn."""
        hungry = [pod for pod in self._pods if pod.ready]
        while hungry:
            hungry = [pod for pod in hungry if pod.take()]

    def note(self) -> None:
        """Forget the pods that have gone, and write down how many there are."""
        self._pods = [pod for pod in self._pods if not pod.gone]
        gpus, now, number = self._world.record.gpus, self._world.clock.now, len(self._pods)
        if gpus[-1][1] != number:
            gpus.append((now, number))
