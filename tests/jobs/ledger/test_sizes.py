"""The sizes that engine sets are used at: added by all workers, bounded, and recent use counts most."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from jobs.ledger.keys import SIZES, SIZES_SECONDS, sizes_key
from jobs.ledger.ledger import Ledger
from jobs.ledger.sizes import HALF_LIFE_SECONDS, StepSize, most_used, weight

SIZE = StepSize(512, 768, 77, 8)
WIDE = StepSize(512, 1024, 154, 4)
NOW = 1_800_000_000.0


def test_workers_add_to_what_others_used(ledger: Ledger) -> None:
    ledger.note_sizes("set", {SIZE: 10.0, WIDE: 15.0})
    Ledger(ledger.client).note_sizes("set", {SIZE: 10.0})
    assert list(ledger.sizes("set").items()) == [(SIZE, 20.0), (WIDE, 15.0)]
    assert ledger.sizes("another") == {}
    assert Ledger(ledger.client, queue="other").sizes("set") == {}


def test_they_are_bounded_and_expire(ledger: Ledger) -> None:
    sizes = [StepSize(64 * (1 + n), 64, 77, 1) for n in range(SIZES + 20)]
    ledger.note_sizes("set", {size: 1.0 + n for n, size in enumerate(sizes)})
    assert list(ledger.sizes("set")) == sizes[: -SIZES - 1 : -1]
    key = sizes_key("render", "set")
    assert ledger.client.zcard(key) == SIZES
    assert 0 < ledger.client.ttl(key) <= SIZES_SECONDS


def test_use_of_a_week_ago_counts_half() -> None:
    assert weight(100, at=NOW) == pytest.approx(2 * weight(100, at=NOW - HALF_LIFE_SECONDS))
    assert 0 < weight(1, at=NOW + 15 * 365 * 86400) < float("inf")
    assert weight(1, at=1e30) > 0  # a clock that is wrong breaks nothing


@pytest.mark.parametrize(
    "spoil",
    [
        lambda client, key: client.set(key, "x"),
        lambda client, key: client.zadd(
            key,
            {"": 1, "512x512x77": 1, "512x512x77x0": 1, "-1x2x3x4": 1, "512x512x77x8 ": 2, "9" * 50: 1, "²x1x1x1": 1,
             "99999x64x77x1": 1, "64x64x77x8": float("inf")},
        ),
    ],
)  # fmt: skip
def test_garbage_in_redis_is_no_size(ledger: Ledger, spoil: Callable[[redis.Redis, str], object]) -> None:
    spoil(ledger.client, sizes_key("render", "set"))
    assert ledger.sizes("set") == {}
    ledger.note_sizes("set", {SIZE: 1.0})  # raises nothing


def test_a_size_is_read_as_it_is_written() -> None:
    assert StepSize.parse(SIZE.text) == SIZE
    assert SIZE.text == "512x768x77x8"
    assert most_used([(SIZE.text, 1.0), (WIDE.text, float("nan")), ("x", 3.0)]) == {SIZE: 1.0}
