"""Workers that ended by themselves are counted, since nothing else of them is left to see."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from jobs.ledger.ledger import Ledger

NONE = {"engines_refused": 0, "device_lost": 0, "failed": 0}


def test_exits_are_counted_by_why_and_all_are_named_from_the_start(ledger: Ledger) -> None:
    assert ledger.exits() == NONE
    ledger.count_exit("device_lost")
    ledger.count_exit("device_lost")
    ledger.count_exit("engines_refused")
    assert ledger.exits() == {"engines_refused": 1, "device_lost": 2, "failed": 0}


def test_each_queue_has_its_own(ledger: Ledger) -> None:
    Ledger(ledger.client, queue="other").count_exit("failed")
    assert ledger.exits() == NONE


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client: client.set("render:exits:render", "x"),
        lambda client: client.hset("render:exits:render", mapping={"failed": "many", "a newer reason": "3"}),
    ],
)
def test_garbage_in_redis_is_no_exit(ledger: Ledger, spoil: Callable[[redis.Redis], object]) -> None:
    spoil(ledger.client)
    assert ledger.exits() == NONE
