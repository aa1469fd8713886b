"""The Redis of overlays/dev, as its container starts it and its probes ask it: a real server on this machine."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import redis

from tests.deploy.overlays import Document, workload
from tests.eventually import eventually
from tools.embedded_redis import free_port, redis_server_binary

pytestmark = pytest.mark.deploy

PASSWORD = r'a "quoted" pa$$word with \spaces and `ticks` and %s'


@dataclass
class Server:
    """A process that the container's own command started, and how to reach it."""

    process: subprocess.Popen[bytes]
    port: int
    environment: dict[str, str]

    def client(self, password: str | None = PASSWORD) -> redis.Redis:
        """A client of its own."""
        return redis.Redis(port=self.port, password=password, decode_responses=True)

    def probe(self, name: str) -> int:
        """The exit code of a probe's command, with the container's own environment."""
        words = container()[f"{name}Probe"]["exec"]["command"]
        own = [word.replace("redis-cli", f"redis-cli -p {self.port}") for word in words]
        return subprocess.run(own, env=self.environment, capture_output=True, check=False).returncode


def container() -> Document:
    """The container of Redis."""
    found: Document = workload("overlays/dev", "batch-renderer-redis").spec["containers"][0]
    return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    port = free_port()
    # Only the folder and the port are this machine's.
    words = [
        *container()["command"],
        *(word.replace("dir /data", f"dir {tmp_path}\nport {port}") for word in container()["args"]),
    ]
    environment = {
        "PATH": f"{redis_server_binary().parent}:{os.environ['PATH']}",
        "REDIS_PASSWORD": PASSWORD,
        "REDISCLI_AUTH": PASSWORD,
    }
    process = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL)
    server = Server(process, port, environment)
    try:
        eventually(lambda: answers(server))
        yield server
    finally:
        process.terminate()
        process.wait(30)


def answers(server: Server) -> bool:
    """Whether the server listens."""
    assert server.process.poll() is None, "redis-server has ended"
    try:
        return bool(server.client().ping())
    except redis.ConnectionError:
        return False


def test_it_asks_for_the_password_and_keeps_what_it_has(server: Server, tmp_path: Path) -> None:
    with server.client() as client:
        client.set("a", "b")
        assert client.config_get("appendonly") == {"appendonly": "yes"}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    with server.client(None) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.get("a")
    assert any(path.name.startswith("appendonly") for path in tmp_path.iterdir())


def test_the_password_is_in_no_process_listing_and_redis_is_process_one(server: Server) -> None:
    line = Path(f"/proc/{server.process.pid}/cmdline").read_bytes()
    assert b"redis-server" in line.partition(b"\0")[0]  # the shell has become it, so SIGTERM reaches it
    assert PASSWORD.encode() not in line


def test_the_probes_tell_a_server_that_answers_from_one_that_does_not(server: Server) -> None:
    assert [server.probe(name) for name in ("startup", "liveness", "readiness")] == [0, 0, 0]
    wrong = Server(server.process, server.port, {**server.environment, "REDISCLI_AUTH": "wrong"})
    assert wrong.probe("readiness") != 0
    server.process.terminate()
    server.process.wait(30)
    assert server.probe("liveness") != 0
