"""What a real Redis says when it refuses, as a sentence that says what to do; a worker waits for all of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from jobs.errors import LedgerUnavailable
from jobs.ledger.ledger import Ledger
from jobs.redis_errors import why_unavailable
from jobs.settings import load_settings
from tests.eventually import eventually
from tests.jobs.rows import enqueue, make_job, make_jobs, make_result
from tools.embedded_redis import EmbeddedRedis, free_port


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedRedis]:
    """A server of the test's own, which it may break. It keeps its data in tmp_path/data."""
    with EmbeddedRedis(tmp_path / "data") as server:
        yield server
        server.kill()  # one that cannot save does not stop when it is asked to


@pytest.fixture
def admin(server: EmbeddedRedis) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url, decode_responses=True) as client:
        yield client


@pytest.fixture
def ledger(server: EmbeddedRedis) -> Iterator[Ledger]:
    ledger = Ledger.connect(load_settings(redis_url=server.url))
    yield ledger
    ledger.close()


def has_no_disk(admin: redis.Redis, folder: Path) -> None:
    """The folder of its data is gone, and a snapshot has failed."""
    admin.config_set("save", "3600 1")
    (folder / "lost").mkdir()
    admin.config_set("dir", str(folder / "lost"))
    (folder / "lost").rmdir()
    admin.bgsave()
    eventually(lambda: admin.info("persistence")["rdb_last_bgsave_status"] == "err")


def has_no_memory(admin: redis.Redis, _: Path) -> None:
    admin.config_set("maxmemory", "1mb")
    admin.config_set("maxmemory", "100kb")


def is_a_replica(admin: redis.Redis, _: Path) -> None:
    admin.replicaof("127.0.0.1", str(free_port()))


def wants_replicas(admin: redis.Redis, _: Path) -> None:
    admin.config_set("min-replicas-to-write", "1")


Fault = Callable[[redis.Redis, Path], None]
REFUSALS: dict[Fault, str] = {
    has_no_disk: "Redis cannot write its data to disk, so it refuses every change: make room",
    has_no_memory: "Redis has used all the memory that it may, so it refuses every change: raise its `maxmemory`",
    is_a_replica: "RENDER_REDIS_URL names a replica of Redis, which can only be read",
    wants_replicas: "Redis has fewer replicas than its `min-replicas-to-write` asks for",
}


@pytest.mark.parametrize("fault", REFUSALS)
def test_a_server_that_refuses_every_change_says_what_to_do(
    ledger: Ledger, admin: redis.Redis, tmp_path: Path, fault: Fault
) -> None:
    jobs = make_jobs(3)
    enqueue(ledger, jobs)
    fault(admin, tmp_path)
    moves: list[Callable[[], object]] = [
        lambda: ledger.open_batch("c", output="file:///out", source="jobs.csv"),
        lambda: ledger.enqueue(make_jobs(3, batch="c")),
        lambda: ledger.beat("w", in_flight=[], lease_seconds=10),
        lambda: ledger.start(jobs[0], worker="w"),
        lambda: ledger.finish(make_result(jobs[1])),
        lambda: ledger.cancel("b"),
        lambda: ledger.requeue("b", list(ledger.states("b")), to="head"),
        lambda: ledger.defer(jobs[1], worker="w", seconds=1, refund=True),
    ]
    for move in moves[:3] if fault is has_no_memory else moves:  # without memory, jobs may still start and end
        with pytest.raises(LedgerUnavailable) as caught:
            move()
        assert str(caught.value).startswith(REFUSALS[fault])


def test_a_replica_that_may_not_be_read_either_is_told(ledger: Ledger, admin: redis.Redis, tmp_path: Path) -> None:
    admin.config_set("replica-serve-stale-data", "no")
    is_a_replica(admin, tmp_path)
    with pytest.raises(LedgerUnavailable, match="a replica of Redis, and the server that it replicates is away"):
        ledger.counts("b")


LOGINS = {
    "//:no@": "Redis refuses the user or the password in RENDER_REDIS_URL",
    "//renderer:no@": "Redis refuses the user or the password in RENDER_REDIS_URL",
    "//": "Redis does not accept the login in RENDER_REDIS_URL: it wants a password",
    "//renderer:pw@": "the user in RENDER_REDIS_URL lacks a permission in Redis: give it all commands on the keys",
    "//reader:pw@": "the user in RENDER_REDIS_URL lacks a permission in Redis: give it all commands on the keys",
}


@pytest.mark.parametrize("login", LOGINS)
def test_a_login_that_is_refused_or_may_not_do_it_is_told(
    server: EmbeddedRedis, admin: redis.Redis, login: str
) -> None:
    admin.execute_command("ACL", "SETUSER", "renderer", "on", ">pw", "~other:*", "+@all")  # no key of ours
    admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", "~*", "+@all", "-hset", "-lpush")  # in a script
    admin.config_set("requirepass", "hunter2")
    ledger = Ledger.connect(load_settings(redis_url=server.url.replace("//", login)))
    with pytest.raises(LedgerUnavailable) as caught:
        ledger.enqueue([make_job()])
    assert str(caught.value).startswith(LOGINS[login])
    assert "hunter2" not in str(caught.value)


def test_a_database_that_does_not_exist_and_one_of_another_program_are_told(
    server: EmbeddedRedis, admin: redis.Redis
) -> None:
    with pytest.raises(LedgerUnavailable, match="has no database of the number"):
        Ledger.connect(load_settings(redis_url=server.url.replace("/0", "/99"))).counts("b")
    admin.set("render:batch:b:states", "text")
    with pytest.raises(LedgerUnavailable, match="another program uses the same database"):
        Ledger.connect(load_settings(redis_url=server.url)).enqueue([make_job()])


def test_a_server_without_room_for_another_connection_is_told(server: EmbeddedRedis, admin: redis.Redis) -> None:
    admin.config_set("maxclients", "1")
    with pytest.raises(LedgerUnavailable, match="takes no more connections"):
        Ledger.connect(load_settings(redis_url=server.url)).counts("b")


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "Error running script (call to f_b6f06c): @user_script:50: @user_script: 50: -MISCONF Errors writing to "
            "the AOF file: No space left on device",
            "Redis cannot write its data to disk",
        ),
        ("Error running script (call to f_b6f06c): @user_script:50: -OOM command not allowed", "all the memory"),
        ("LOADING Redis is loading the dataset in memory", "still reading its data"),
        ("BUSY Redis is busy running a script. You can only call SCRIPT KILL", "busy with a script"),
        ("MOVED 3999 127.0.0.1:6381", "a Redis Cluster"),
        ("CROSSSLOT Keys in request don't hash to the same slot", "a Redis Cluster"),
        ("DENIED Redis is running in protected mode", "protected mode"),
        ("unknown command `EVALSHA`, with args beginning with:", "use Redis 6.2 or later"),
        (
            "Error running script (call to f_b6f06c): @user_script:50: @user_script: 50: something new",
            "Redis refused a request: something new",
        ),
        ("ERR something new script: 4e1a, on @user_script:50.", "Redis refused a request: ERR something new"),
    ],
)
def test_what_other_servers_say_has_its_sentence_too(said: str, sentence: str) -> None:
    assert sentence in why_unavailable(redis.ResponseError(said))
