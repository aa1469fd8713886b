"""Everything that is broken on purpose. Each fault is over, and its victim replaced, when it returns."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

from tests.chaos.arena import VISIBILITY_SECONDS, Arena
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
    """SIGTERM; it must end with 0 within the grace period and what handing back takes."""
    worker = _ready(arena, rng)
    worker.terminate()
    _expect_end(arena, worker)
    arena.retire(worker)


def kill_stopping_worker(arena: Arena, rng: random.Random) -> None:
    """SIGTERM, and SIGKILL while it drains."""
    worker = _ready(arena, rng)
    worker.terminate()
    time.sleep(rng.uniform(0.0, 1.0))
    worker.kill()
    arena.retire(worker)


def insist_on_stopping(arena: Arena, rng: random.Random) -> None:
    """SIGTERM, and SIGTERM again."""
    worker = _ready(arena, rng)
    worker.terminate()
    time.sleep(rng.uniform(0.0, 0.5))
    worker.terminate()
    _expect_end(arena, worker)
    arena.retire(worker)


def stop_worker(arena: Arena, rng: random.Random) -> None:
    """SIGSTOP for longer than the visibility timeout; then it goes on as if nothing had happened."""
    worker = _ready(arena, rng)
    worker.signal(signal.SIGSTOP)
    time.sleep(VISIBILITY_SECONDS + rng.uniform(1.0, 3.0))
    worker.signal(signal.SIGCONT)


def kill_redis(arena: Arena, rng: random.Random) -> None:
    """kill -9, and a start from the append-only file."""
    arena.server.kill()
    time.sleep(rng.uniform(0.0, 2.0))
    arena.server.start()


def cut_network(arena: Arena, rng: random.Random) -> None:
    """Every connection of the workers to Redis breaks at its next word, for a while."""
    arena.proxy.faults.cut_where = lambda _: True
    time.sleep(rng.uniform(0.5, 4.0))
    arena.proxy.faults.cut_where = lambda _: False


def stall_network(arena: Arena, rng: random.Random) -> None:
    """Redis hears the workers, and they hear nothing: what was done and what was not cannot be known."""
    arena.proxy.faults.stall_replies = True
    time.sleep(rng.uniform(0.5, 4.0))
    arena.proxy.faults.stall_replies = False


def block_storage(arena: Arena, rng: random.Random) -> None:
    """A file stands where the folder of results was."""
    arena.point_results_to("blocked")
    time.sleep(rng.uniform(0.3, 1.5))
    arena.point_results_to("real")


def read_only_storage(arena: Arena, rng: random.Random) -> None:
    """The folder of results is read-only."""
    _on_another_disk(arena, rng, "ro")


def full_storage(arena: Arena, rng: random.Random) -> None:
    """The folder of results has not one byte left."""
    _on_another_disk(arena, rng, "size=4k")


def delete_messages(arena: Arena, rng: random.Random) -> None:
    """Messages vanish from the queue."""
    length = arena.ledger.queue_length()
    for _ in range(rng.randrange(1, 6)):
        text = arena.client.lindex("render", rng.randrange(max(1, length)))
        if text is not None:
            arena.client.lrem("render", 1, str(text))


def delete_deliveries(arena: Arena, rng: random.Random) -> None:
    """kombu's notes of what workers hold vanish."""
    tags = list(arena.client.hkeys("unacked"))
    for tag in rng.sample(tags, min(len(tags), 5)):
        arena.client.hdel("unacked", tag)
        arena.client.zrem("unacked_index", tag)


def garbage_in_queue(arena: Arena, rng: random.Random) -> None:
    """Whoever can write to Redis can put anything into the list."""
    for item in rng.sample(GARBAGE, 5):
        (arena.client.rpush if rng.random() < 0.5 else arena.client.lpush)("render", item)


def garbage_among_deliveries(arena: Arena, rng: random.Random) -> None:
    """And into the hash of what was delivered, long ago as it seems."""
    for number, item in enumerate(rng.sample(GARBAGE, 5)):
        arena.client.hset("unacked", f"garbage-{number}", item)
        arena.client.zadd("unacked_index", {f"garbage-{number}": 1.0})
    arena.client.hset("unacked", b"\xff\xfd", b"\xff")
    arena.client.zadd("unacked_index", {b"\xff\xfd": 1.0})


def repeat_messages(arena: Arena, rng: random.Random) -> None:
    """Messages are in the queue twice."""
    for text in arena.client.lrange("render", 0, rng.randrange(1, 10)):
        arena.client.rpush("render", text)


ALL: tuple[Fault, ...] = (
    kill_worker,
    kill_redis,
    terminate_worker,
    stop_worker,
    cut_network,
    block_storage,
    delete_messages,
    garbage_in_queue,
    stall_network,
    full_storage,
    read_only_storage,
    kill_stopping_worker,
    insist_on_stopping,
    delete_deliveries,
    garbage_among_deliveries,
    repeat_messages,
)


def drawn(number: int, rng: random.Random) -> list[Fault]:
    """Each kind in turn until there are enough, in an order of the seed's."""
    faults = [ALL[index % len(ALL)] for index in range(number)] if number >= len(ALL) else list(ALL[:number])
    rng.shuffle(faults)
    return faults


def _ready(arena: Arena, rng: random.Random) -> WorkerProcess:
    """A worker that has begun to work; killing one that loads breaks nothing."""
    deadline = time.monotonic() + 60
    while True:
        arena.replace_the_dead()
        ready = [worker for worker in arena.workers if '"worker_started"' in worker.output]
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


def _on_another_disk(arena: Arena, rng: random.Random, options: str) -> None:
    """Results are to go to a small file system that takes nothing, which lasts as long as the fault."""
    disk = arena.folder / "out" / "disk"
    disk.mkdir(exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode != 0:
        block_storage(arena, rng)  # this machine does not let us
        return
    try:
        # Filled before anybody sees it: what it took would be lost with it.
        with suppress(OSError), (disk / "filler").open("wb") as file:
            file.write(bytes(2**20))
        arena.point_results_to("disk")
        time.sleep(rng.uniform(0.3, 1.5))
        arena.point_results_to("real")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
