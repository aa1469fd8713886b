"""One day of scaling: submissions, a real queue, KEDA, the HPA and simulated GPUs, all by one virtual clock."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from kombu import Connection

from benchmarks.queue_client import QueueClient, connect
from benchmarks.sample_jobs import enqueue
from benchmarks.scaled_object import Counts, ScaledObject
from benchmarks.scaling_rules import SYNC_SECONDS
from benchmarks.simulated_gpus import Gpu, Record, SimulatedDeployment, World
from benchmarks.submissions import DAY_SECONDS, Submission
from benchmarks.virtual_clock import VirtualClock
from jobs.ledger.keys import delayed_key
from jobs.ledger.kombu_view import UNACKED
from jobs.ledger.ledger import Ledger
from jobs.ledger.reconcile import take_back
from jobs.settings import Settings

LATEST_SECONDS = 7 * DAY_SECONDS  # a day's work that takes longer will never end

# What the autoscaler counts. `sum` is what we deploy; the others show what goes wrong.
#   sum      one metric: jobs that wait, and those that workers hold
#   largest  two metrics: the HPA takes the larger wish of the two, not that of their sum
#   queued   jobs that wait only: the last worker is stopped with work in its hands
Counting = Literal["sum", "largest", "queued"]


class JobsDoNotEnd(RuntimeError):
    """A plan whose GPUs are too few or too slow for its jobs."""


@dataclass(frozen=True)
class Plan:
    """What to simulate."""

    scaled: ScaledObject
    gpu: Gpu
    submissions: tuple[Submission, ...]
    counting: Counting = "sum"
    kill: bool = False  # pods end without a grace period


@dataclass
class Outcome:
    """What happened. `submitted` maps job ids to the time of their submission; all times in seconds."""

    record: Record = field(default_factory=Record)
    submitted: dict[str, float] = field(default_factory=dict)
    batches: list[list[str]] = field(default_factory=list)
    backlog: list[tuple[float, int]] = field(default_factory=lambda: [(0.0, 0)])

    @property
    def waits(self) -> list[float]:
        """From the submission of each job until its rendering began."""
        return [self.record.begun[id_][0] - at for id_, at in self.submitted.items()]

    @property
    def batch_seconds(self) -> list[float]:
        """From the submission of each batch to the end of its last job."""
        return [max(self.record.done[id_] for id_ in ids) - self.submitted[ids[0]] for ids in self.batches]

    @property
    def rendered_twice(self) -> int:
        """Jobs whose rendering began more than once."""
        return sum(len(times) > 1 for times in self.record.begun.values())


class ScalingSimulation:
    """Runs one plan against the Redis of the settings, which must be empty."""

    def __init__(self, plan: Plan, settings: Settings) -> None:
        self._plan = plan
        self._clock = VirtualClock()
        self._ledger = Ledger.connect(settings)
        self._connection: Connection = connect(settings)
        self.outcome = Outcome()
        world = World(
            self._clock, plan.gpu, self.outcome.record, self._client, self._pods_changed, lease_ended=self._lease_ended
        )
        self._deployment = SimulatedDeployment(world, kill=plan.kill)
        self._hpa = plan.scaled.hpa()
        self._keda = plan.scaled.activates()

    def run(self) -> Outcome:
        """Until all jobs are done and no pod is left.

        Raises:
            JobsDoNotEnd: not within a week of virtual time.
        """
        with self._connection, closing(self._ledger):
            self._run()
        return self.outcome

    def _run(self) -> None:
        for number, submission in enumerate(self._plan.submissions):
            self._clock.at(submission.at, partial(self._submit, number, submission.jobs))
        self._clock.every(self._plan.scaled.polling_seconds, self._poll, until=LATEST_SECONDS)
        self._clock.every(SYNC_SECONDS, self._sync, until=LATEST_SECONDS)
        self._clock.run(self._plan.submissions[-1].at)
        while self._deployment.pods or len(self.outcome.record.done) < len(self.outcome.submitted):
            if self._clock.now > LATEST_SECONDS:
                raise JobsDoNotEnd(
                    f"{len(self.outcome.record.done)} of {len(self.outcome.submitted)} jobs ended in "
                    f"{LATEST_SECONDS / DAY_SECONDS:g} days of virtual time; take fewer jobs, or more or faster GPUs"
                )
            self._clock.run(self._clock.now + 600)

    def counts(self) -> Counts:
        """What KEDA's redis triggers read: LLEN, HLEN and ZCARD."""
        with self._ledger.client.pipeline(transaction=False) as pipe:
            pipe.llen(self._ledger.queue)
            pipe.hlen(UNACKED)
            pipe.zcard(delayed_key(self._ledger.queue))
            return Counts(*pipe.execute())

    def _submit(self, number: int, jobs: int) -> None:
        ids = enqueue(self._ledger, f"batch-{number:04d}", jobs)
        self.outcome.batches.append(ids)
        self.outcome.submitted.update(dict.fromkeys(ids, self._clock.now))
        self._deployment.feed()

    def _metrics(self) -> list[float]:
        counts = self.counts()
        if self.outcome.backlog[-1][1] != counts.unfinished:
            self.outcome.backlog.append((self._clock.now, counts.unfinished))
        by_counting: dict[Counting, list[float]] = {
            "sum": [counts.unfinished],
            "largest": [counts.queued, counts.unacknowledged],
            "queued": [counts.queued],
        }
        return by_counting[self._plan.counting]

    def _poll(self) -> None:
        replicas = self._deployment.replicas
        self._deployment.scale(self._keda.poll(replicas, self._metrics(), now=self._clock.now))

    def _sync(self) -> None:
        if replicas := self._deployment.replicas:
            metrics = [(value, float(self._plan.scaled.target)) for value in self._metrics()]
            self._deployment.scale(self._hpa.sync(self._clock.now, replicas, metrics))

    def _client(self, name: str) -> QueueClient:
        return QueueClient(name, self._connection, self._ledger)

    def _pods_changed(self) -> None:
        self._deployment.note()
        self._deployment.feed()

    def _lease_ended(self, name: str) -> None:
        """A reconciler's pass, right after the lease of a killed worker has ended."""
        self._ledger.retire(name)
        for pod in self._deployment.pods:
            pod.beat()
        take_back(self._ledger, lease_seconds=0.0, sleep=lambda _: None)
        self._deployment.feed()
