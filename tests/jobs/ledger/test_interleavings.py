"""The reconciler beside workers that move jobs between any two of its reads: nothing is taken back, nothing doubled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from jobs.ledger.kombu_view import QueueMoved
from jobs.ledger.ledger import Ledger
from jobs.ledger.message import celery_message
from jobs.ledger.reconcile import Reconciled, reconcile, take_back
from jobs.ledger.records import Refusal, WorkerFacts
from tests.eventually import eventually
from tests.jobs.ledger.interleaving import Consumer, InterruptedClient, messages_of
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result

LEASE_SECONDS = 1.0

Sleep = Callable[[float], object]
Pass = Callable[[Ledger, Sleep], Reconciled]


@pytest.fixture(autouse=True)
def redis_is_not_new(ledger: Ledger) -> None:
    eventually(lambda: ledger.seconds_up() >= LEASE_SECONDS)


@pytest.fixture
def watched(redis_url: str) -> Iterator[Ledger]:
    """The reconciler's own ledger, which can be interrupted."""
    with InterruptedClient.from_url(redis_url, decode_responses=True) as client:
        yield Ledger(client)


def whole(ledger: Ledger, sleep: Sleep) -> Reconciled:
    return reconcile(ledger, lease_seconds=LEASE_SECONDS, sleep=sleep)


def quick(ledger: Ledger, sleep: Sleep) -> Reconciled:
    return take_back(ledger, lease_seconds=LEASE_SECONDS, sleep=sleep)


class Scene:
    """One job, a live worker `w` that may have it, and what the worker does next."""

    def __init__(self, ledger: Ledger, *, skew: float = 0.0) -> None:
        ledger.client.flushall()
        self.ledger, self.job = ledger, make_job()
        self.worker, self.tag = Consumer(ledger, "w", skew=skew), ""
        self.worker.beat()
        ledger.beat("other", in_flight=[], lease_seconds=60)
        enqueue(ledger, [self.job])

    # Where the job is when the pass begins.

    def queued(self) -> None:
        pass

    def delivered(self) -> None:
        self.tag = self.worker.deliver()

    def running(self) -> None:
        self.tag = self.worker.deliver(seconds_ago=60)
        self.ledger.start(self.job, worker="w")
        self.worker.beat(self.job.id)

    def delayed(self) -> None:
        self.running()
        self.refuses()
        self.ledger.client.zadd("render:delayed:render", {f"b {self.job.id}": time.time() - 1})

    # What happens during the pass.

    def is_delivered(self) -> None:
        self.tag = self.worker.deliver()

    def is_delivered_and_starts(self) -> None:
        self.tag = self.worker.deliver()
        self.starts()

    def starts(self) -> None:
        assert self.ledger.start(self.job, worker="w").decision == "run"

    def ends(self) -> None:
        self.ledger.finish(make_result(self.job))
        self.worker.acknowledge(self.tag)

    def starts_and_ends(self) -> None:
        self.starts()
        self.ends()

    def is_delivered_and_ends(self) -> None:
        self.is_delivered_and_starts()
        self.ends()

    def is_put_back(self) -> None:
        self.ledger.nack(self.job, worker="w")
        self.worker.put_back(self.tag)

    def refuses(self) -> None:
        refusal = Refusal(by="w", worker="w", kind="output_full", text="full", at=1.0)
        assert not self.ledger.refuse(self.job, refusal, facts=WorkerFacts()).final
        self.worker.acknowledge(self.tag)

    def is_fed(self) -> None:
        self.ledger.feed_delayed()

    def is_fed_and_starts(self) -> None:
        self.is_fed()
        self.is_delivered_and_starts()

    def starts_on_a_new_worker(self) -> None:
        self.worker = Consumer(self.ledger, "new")
        self.worker.beat()
        self.tag = self.worker.deliver()
        assert self.ledger.start(self.job, worker="new").decision == "run"


MOVES = [
    ("queued", "is_delivered"),
    ("queued", "is_delivered_and_starts"),
    ("queued", "is_delivered_and_ends"),
    ("queued", "starts_on_a_new_worker"),
    ("delivered", "starts"),
    ("delivered", "starts_and_ends"),
    ("running", "ends"),
    ("running", "is_put_back"),
    ("running", "refuses"),
    ("delayed", "is_fed"),
    ("delayed", "is_fed_and_starts"),
]


@pytest.mark.parametrize("repair", [whole, quick])
@pytest.mark.parametrize(("before", "move"), MOVES, ids=[f"{before}-{move}" for before, move in MOVES])
def test_a_job_that_moves_between_any_two_reads_is_left_alone(
    ledger: Ledger, watched: Ledger, repair: Pass, before: str, move: str
) -> None:
    client = watched.client
    assert isinstance(client, InterruptedClient)
    at, sent = 0, 1
    while at <= sent:  # after the last command, too
        scene = Scene(ledger)
        getattr(scene, before)()
        client.interrupt_at(at, getattr(scene, move))
        repaired = repair(watched, lambda seconds: None)
        sent = client.sent
        assert repaired == Reconciled(), f"before command {at}"
        state = ledger.state("b", scene.job.id)
        assert state is not None
        expected = 0 if state.state == "done" else 1
        assert messages_of(ledger, scene.job) == expected, f"before command {at}"
        at += 1
    assert at > 3


@pytest.mark.parametrize("move", ["is_delivered", "is_delivered_and_ends"])
def test_a_message_that_moves_between_the_two_reads_of_a_look_does_not_look_old(
    ledger: Ledger, watched: Ledger, move: str
) -> None:
    client = watched.client
    assert isinstance(client, InterruptedClient)
    for at in range(3):
        scene = Scene(ledger)
        client.interrupt_at(at, getattr(scene, move))
        for message in watched.kombu.delivered().values():
            assert message.since is None or time.time() - message.since < 30


@pytest.mark.parametrize("repair", [whole, quick])
@pytest.mark.parametrize("skew", [-3600.0, 3600.0])
def test_a_worker_whose_clock_is_wrong_keeps_what_was_delivered_to_it(
    ledger: Ledger, repair: Pass, skew: float
) -> None:
    scene = Scene(ledger, skew=skew)
    scene.delivered()
    assert repair(ledger, lambda seconds: scene.starts()) == Reconciled()
    assert messages_of(ledger, scene.job) == 1


@pytest.mark.parametrize("repair", [whole, quick])
def test_a_job_that_waits_for_its_turn_in_a_live_worker_is_left_alone(ledger: Ledger, repair: Pass) -> None:
    scene = Scene(ledger)
    scene.worker.deliver(seconds_ago=60)  # before its last start, a job waits for others without being started
    scene.worker.beat(scene.job.id)
    assert repair(ledger, lambda seconds: None) == Reconciled()
    scene.worker.beat()
    assert repair(ledger, lambda seconds: None) == Reconciled(restored=1)
    assert messages_of(ledger, scene.job) == 1


@pytest.mark.parametrize("repair", [whole, quick])
def test_a_message_without_a_time_is_taken_back_only_where_it_stays(ledger: Ledger, repair: Pass) -> None:
    scene = Scene(ledger)
    scene.delivered()
    ledger.client.delete("unacked_index")
    assert repair(ledger, lambda seconds: scene.starts_and_ends()) == Reconciled()
    scene = Scene(ledger)
    scene.delivered()
    ledger.client.delete("unacked_index")
    assert repair(ledger, lambda seconds: None) == Reconciled(restored=1)


@pytest.mark.parametrize("repair", [whole, quick])
def test_of_two_messages_of_a_job_the_one_that_was_delivered_last_counts(ledger: Ledger, repair: Pass) -> None:
    """A dead worker has the first one, and a live one has just been given the second."""
    scene = Scene(ledger)
    ledger.client.lpush(ledger.queue, celery_message(scene.job, queue=ledger.queue))
    for seconds_ago in (60, 0):
        scene.worker.deliver(seconds_ago=seconds_ago)
    assert repair(ledger, lambda seconds: None) == Reconciled()


def test_a_message_that_a_worker_has_popped_and_not_noted_yet_is_waited_for(ledger: Ledger) -> None:
    scene = Scene(ledger)
    scene.worker.pop()
    assert whole(ledger, lambda seconds: scene.worker.note()) == Reconciled()
    assert messages_of(ledger, scene.job) == 1


def test_nothing_counts_as_lost_while_messages_change_their_places(
    ledger: Ledger, watched: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.ledger.kombu_view.SCAN_COUNT", 10)
    jobs = make_jobs(35)
    enqueue(ledger, jobs)
    for job in jobs[:15]:
        ledger.finish(make_result(job, "cancelled"))  # as an earlier version cancels: the messages stay
    client = watched.client
    assert isinstance(client, InterruptedClient)
    client.interrupt_at(2, lambda: ledger.sift("b"))
    with pytest.raises(QueueMoved):
        list(watched.kombu.queued_ids())
    for at in range(40):
        doomed = make_jobs(3, batch=f"c{at}")
        enqueue(ledger, doomed)
        for job in doomed:
            ledger.finish(make_result(job, "cancelled"))
        client.interrupt_at(at, partial(ledger.sift, f"c{at}"))
        assert whole(watched, lambda seconds: None) == Reconciled()
    assert ledger.counts("b").queued == 20
