"""The toy app's queue and its diary, as a test sees them in Redis."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable

import redis

from tests.worker_process import WorkerProcess

StartToy = Callable[..., WorkerProcess]


class Toy:
    """The toy's queue and its diary, seen from Redis."""

    def __init__(self, client: redis.Redis) -> None:
        self.client = client
        self.diary: list[tuple[str, str, float]] = []

    def send(self, seconds: float) -> str:
        id_ = str(uuid.uuid4())
        item = {
            "body": json.dumps([[seconds], {}, {}]),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"lang": "py", "task": "toy", "id": id_, "argsrepr": "", "kwargsrepr": ""},
            "properties": {
                "correlation_id": id_,
                "delivery_info": {"exchange": "", "routing_key": "toy"},
                "priority": 0,
                "delivery_tag": str(uuid.uuid4()),
            },
        }
        self.client.lpush("toy", json.dumps(item))
        return id_

    def wait_for(self, what: str, *, seconds: float = 15.0) -> float:
        """Read the diary up to the next `what`; its time."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            line = self.client.blpop("log", 1.0)
            if line is not None:
                event, who, at = str(line[1]).split()
                self.diary.append((event, who, float(at)))
                if event == what:
                    return float(at)
        raise AssertionError(f"no {what!r} within {seconds} s: {self.diary}")

    def rest_of_diary(self) -> list[str]:
        self.diary += [(*line.split()[:2], float(line.split()[2])) for line in self.client.lrange("log", 0, -1)]
        return [event for event, _, _ in self.diary]

    @property
    def unacknowledged(self) -> int:
        return int(self.client.hlen("unacked"))

    @property
    def waiting(self) -> int:
        return int(self.client.llen("toy"))

    @property
    def asks(self) -> bool:
        """Whether a worker is blocked in BRPOP at this moment."""
        return any(client["cmd"] == "brpop" and "b" in client["flags"] for client in self.client.client_list())

    @property
    def looks(self) -> int:
        """How often the worker's event loop has looked whether it is paused, as before each BRPOP."""
        return int(self.client.get("looks") or 0)

    def pause(self) -> None:
        """Pause the worker; returns once it knows."""
        self.client.set("paused", "1")
        self.wait_until_it_is("paused")

    def resume(self) -> None:
        """Let it take jobs again; returns once it knows."""
        self.client.delete("paused")
        self.wait_until_it_is("resumed")

    def wait_until_it_is(self, state: str) -> None:
        """Read the worker's next change, which must be this one."""
        line = self.client.blpop("pauses", 30)
        assert line is not None, "the worker has not noticed"
        assert line[1] == state
