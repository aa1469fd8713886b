"""The faults. When one returns, it is over, and a worker that it ended has been replaced."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from collections.abc import Callable
from typing import Any

from tests.chaos.arena import VISIBILITY_SECONDS, Arena
from tests.chaos.storage import EXPIRED_KEY, Trouble
from tests.worker_process import WorkerProcess

Fault = Callable[[Arena, random.Random], None]

GARBAGE: list[str | bytes] = [
    "not json",
    "",
    "5",
    "[]",
    "{}",
    b"\xff\xfe\x00",
    '{"body": "x", "headers": {"task": "render", "id": "x"}, "properties": {}}',
    json.dumps({"body": "[[], {}, {}]", "headers": {"task": "nobody.knows", "id": "y"}, "properties": {}}),
    json.dumps(
        {
            "body": '[["{}"], {}, {}]',
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "headers": {"task": "render", "id": "z", "lang": "py"},
            "properties": {"delivery_tag": "z", "delivery_info": {"exchange": "", "routing_key": "render"}},
        }
    ),
]


def kill_worker(arena: Arena, rng: random.Random) -> None:
    """kill -9."""
    worker = _ready(arena, rng)
    worker.kill()
    arena.retire(worker)


def terminate_worker(arena: Arena, rng: random.Random) -> None:
    """SIGTERM; the worker must end with 0, within the grace period and the time to requeue its jobs."""
    worker = _ready(arena, rng)
    worker.terminate()
    _expect_end(arena, worker)
    arena.retire(worker)


def kill_stopping_worker(arena: Arena, rng: random.Random) -> None:
    """SIGTERM, then SIGKILL while the worker drains."""
    worker = _ready(arena, rng)
    worker.terminate()
    time.sleep(rng.uniform(0.0, 1.0))
    worker.kill()
    arena.retire(worker)


def insist_on_stopping(arena: Arena, rng: random.Random) -> None:
    """SIGTERM twice."""
    worker = _ready(arena, rng)
    worker.terminate()
    time.sleep(rng.uniform(0.0, 0.5))
    worker.terminate()
    _expect_end(arena, worker)
    arena.retire(worker)


def stop_worker(arena: Arena, rng: random.Random) -> None:
    """SIGSTOP for longer than the visibility timeout, then SIGCONT: the worker does not know that it was stopped."""
    worker = _ready(arena, rng)
    worker.signal(signal.SIGSTOP)
    time.sleep(VISIBILITY_SECONDS + rng.uniform(1.0, 3.0))
    worker.signal(signal.SIGCONT)


def kill_redis(arena: Arena, rng: random.Random) -> None:
    """Kill Redis, and start it again from its append-only file."""
    arena.server.kill()
    time.sleep(rng.uniform(0.0, 2.0))
    arena.server.start()


def cut_network(arena: Arena, rng: random.Random) -> None:
    """For a while, each connection of a worker to Redis breaks at its next request."""
    arena.proxy.faults.cut_where = lambda _: True
    time.sleep(rng.uniform(0.5, 4.0))
    arena.proxy.faults.cut_where = lambda _: False


def stall_network(arena: Arena, rng: random.Random) -> None:
    """Redis gets the workers' requests, but its answers do not arrive: a worker cannot know what was done."""
    arena.proxy.faults.stall_replies = True
    time.sleep(rng.uniform(0.5, 4.0))
    arena.proxy.faults.stall_replies = False


def _storage_trouble(kind: Trouble) -> Fault:
    def fault(arena: Arena, rng: random.Random) -> None:
        arena.storage.trouble(kind, rng, away_seconds=arena.plan.away_seconds)

    fault.__name__ = f"storage_{kind}"
    return fault


def wrong_worker(arena: Arena, rng: random.Random) -> None:
    """A worker with wrong settings among good ones, until it has refused a job and somewhat longer; then SIGTERM.

    It reads no inputs, or writes nowhere but to its own output; with a bucket its keys may have expired.
    """
    wrong: list[dict[str, Any]] = [{"allow_folders": ""}, {"output_uri": arena.storage.elsewhere}]
    if arena.plan.storage == "bucket":
        wrong[1]["allow_buckets"] = "another"
        wrong.append({"variables": {"AWS_ACCESS_KEY_ID": EXPIRED_KEY}})
    stranger = arena.start_stranger(**rng.choice(wrong))
    # Before it has loaded it does not handle SIGTERM.
    _wait_until(lambda: bool(stranger.events("worker_started")) or not stranger.alive, seconds=60)
    _wait_until(lambda: bool(stranger.events("job_refused") or stranger.events("worker_paused")), seconds=10)
    time.sleep(rng.uniform(0.0, 3.0))
    _end_stranger(arena, stranger, code=0)


def foreign_pool(arena: Arena, rng: random.Random) -> None:
    """A worker that is started by mistake with another pool; it must refuse before it takes a message."""
    pool = rng.choice(["solo", "threads", "processes"])
    _end_stranger(arena, arena.start_stranger(arguments=["-P", pool]), code=3, terminate=False)


def delete_messages(arena: Arena, rng: random.Random) -> None:
    """Messages vanish from the queue."""
    length = arena.ledger.queue_length()
    for _ in range(rng.randrange(1, 6)):
        text = arena.client.lindex("render", rng.randrange(max(1, length)))
        if text is not None:
            arena.client.lrem("render", 1, str(text))


def delete_deliveries(arena: Arena, rng: random.Random) -> None:
    """Entries vanish from kombu's hash of unacknowledged messages."""
    tags = list(arena.client.hkeys("unacked"))
    for tag in rng.sample(tags, min(len(tags), 5)):
        arena.client.hdel("unacked", tag)
        arena.client.zrem("unacked_index", tag)


def garbage_in_queue(arena: Arena, rng: random.Random) -> None:
    """Put garbage into the queue, as anyone who can write to Redis could."""
    for item in rng.sample(GARBAGE, 5):
        (arena.client.rpush if rng.random() < 0.5 else arena.client.lpush)("render", item)


def garbage_among_deliveries(arena: Arena, rng: random.Random) -> None:
    """Put garbage among the unacknowledged messages, dated long ago."""
    for number, item in enumerate(rng.sample(GARBAGE, 5)):
        arena.client.hset("unacked", f"garbage-{number}", item)
        arena.client.zadd("unacked_index", {f"garbage-{number}": 1.0})
    arena.client.hset("unacked", b"\xff\xfd", b"\xff")
    arena.client.zadd("unacked_index", {b"\xff\xfd": 1.0})


def repeat_messages(arena: Arena, rng: random.Random) -> None:
    """Put copies of some messages into the queue."""
    for text in arena.client.lrange("render", 0, rng.randrange(1, 10)):
        arena.client.rpush("render", text)


ANYWHERE: tuple[Fault, ...] = (
    kill_worker,
    kill_redis,
    terminate_worker,
    stop_worker,
    cut_network,
    wrong_worker,
    foreign_pool,
    delete_messages,
    garbage_in_queue,
    stall_network,
    kill_stopping_worker,
    insist_on_stopping,
    delete_deliveries,
    garbage_among_deliveries,
    repeat_messages,
)


def drawn(arena: Arena, rng: random.Random) -> list[Fault]:
    """As many faults as the plan says, each kind as often as the others, shuffled by `rng`."""
    first, *others = map(_storage_trouble, arena.storage.troubles)
    kinds = [*ANYWHERE[:5], first, *ANYWHERE[5:], *others]
    only = arena.plan.only
    kinds = [kind for kind in kinds if not only or kind.__name__ in only]
    faults = [kinds[index % len(kinds)] for index in range(arena.plan.faults)]
    rng.shuffle(faults)
    return faults


def _ready(arena: Arena, rng: random.Random) -> WorkerProcess:
    """A worker that takes jobs: to kill one that is still loading would break nothing."""
    deadline = time.monotonic() + 60
    while True:
        arena.replace_the_dead()
        ready = [worker for worker in arena.workers if worker.events("worker_started")]
        if ready or time.monotonic() > deadline:
            return rng.choice(ready or arena.workers)
        time.sleep(0.2)


def _expect_end(arena: Arena, worker: WorkerProcess) -> None:
    try:
        code = worker.exit_code(seconds=30)
        if code != 0:
            arena.unexpected.append(f"a worker ended with {code} after SIGTERM: {worker.log}")
    except subprocess.TimeoutExpired:
        arena.unexpected.append(f"a worker did not end within 30 s of SIGTERM: {worker.log}")
        worker.kill()


def _end_stranger(arena: Arena, stranger: WorkerProcess, *, code: int, terminate: bool = True) -> None:
    if terminate:
        stranger.terminate()
    try:
        if (ended := stranger.exit_code(seconds=60)) != code:
            arena.unexpected.append(f"a stranger ended with {ended} instead of {code}: {stranger.log}")
    except subprocess.TimeoutExpired:
        arena.unexpected.append(f"a stranger did not end within 60 s: {stranger.log}")
        stranger.kill()


def _wait_until(true: Callable[[], bool], *, seconds: float) -> None:
    """Or until it takes too long: the batch may have no job left for it."""
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)
