"""The ledger's Lua scripts: one file each in scripts/. Each is one atomic move, and each only goes forward."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import Any, Literal, get_args

import redis

from jobs.ledger.redis_client import answering

ScriptName = Literal[
    "enqueue",
    "start",
    "nack",
    "finish",
    "refuse",
    "defer",
    "due",
    "feed",
    "requeue",
    "restore",
    "cancel",
    "queued_ids",
    "oldest",
    "left_over",
    "drop",
    "drop_delivered",
    "drop_delayed",
    "sift",
    "forget",
]


class Scripts:
    """The scripts on one Redis client. Redis keeps a script after its first call and is sent only its digest then."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self.registered: dict[ScriptName, Any] = {
            name: client.register_script(source(name)) for name in get_args(ScriptName)
        }

    def run(self, name: ScriptName, *, keys: Sequence[str], arguments: Sequence[Any]) -> Any:
        """Run one script and return its answer.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        with answering():
            return self.registered[name](keys=keys, args=arguments)

    def run_each(self, name: ScriptName, *, keys: Sequence[str], arguments: Sequence[Sequence[Any]]) -> list[Any]:
        """Run one script once for each list of arguments, in one round trip.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        script = self.registered[name]
        with answering(), self._client.pipeline(transaction=False) as pipe:
            for each in arguments:
                script(keys=keys, args=each, client=pipe)
            return list(pipe.execute())


@cache
def source(name: ScriptName) -> str:
    """A script's text, with what all scripts share in front."""
    folder = resources.files("jobs.ledger") / "scripts"
    return "\n".join((folder / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", name))
