"""The sizes that workers stepped an engine set at, so that a worker that starts can prepare the device for them.

What counts is recent use. Instead of making all weights smaller as time passes, each use weighs more than those before
it: twice as much a week later. So workers only add, and need not read first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import NamedTuple, cast

import redis

from jobs.ledger.keys import SIZES, SIZES_SECONDS, sizes_key
from jobs.ledger.redis_client import answering, passing_over_damage

HALF_LIFE_SECONDS = 7 * 86400
_SINCE = 1_764_547_200  # 2025-12-01: a float holds the weights of the next twenty years
_LARGEST = {"height": 16384, "width": 16384, "tokens": 77 * 64, "batch": 512}


class StepSize(NamedTuple):
    """The size of an engine set's step."""

    height: int  # of the picture, in pixels
    width: int
    tokens: int  # of each prompt
    batch: int  # samples

    @property
    def text(self) -> str:
        """'512x768x77x8'."""
        return "x".join(map(str, self))

    @classmethod
    def parse(cls, text: str) -> StepSize | None:
        """The size that a text stands for; None for any other text, which another program has written."""
        words = text.split("x")
        if len(words) != len(cls._fields) or not all(word.isascii() and word.isdecimal() for word in words):
            return None
        if any(len(word) > 5 for word in words):
            return None
        size = cls(*map(int, words))
        return size if all(1 <= getattr(size, name) <= most for name, most in _LARGEST.items()) else None


def weight(samples: float, *, at: float) -> float:
    """What so many sample-steps weigh that were taken at this time, in seconds since the epoch."""
    return samples * float(2.0 ** min(1000.0, max(-1000.0, (at - _SINCE) / HALF_LIFE_SECONDS)))


def most_used(weights: Mapping[str, float] | Iterable[tuple[str, float]]) -> dict[StepSize, float]:
    """At most SIZES sizes with their weights, the most used one first. Other entries are left out."""
    pairs = weights.items() if isinstance(weights, Mapping) else weights
    sizes = ((StepSize.parse(text), number) for text, number in pairs)
    known = [(size, number) for size, number in sizes if size is not None and math.isfinite(number) and number > 0]
    return dict(sorted(known, key=lambda pair: (-pair[1], pair[0]))[:SIZES])


class Sizes:
    """The part of the ledger that knows at which sizes workers of this queue step.

    Raises:
        LedgerUnavailable: Redis does not answer.
    """

    client: redis.Redis
    queue: str

    def note_sizes(self, engine_set: str, used: Mapping[StepSize, float]) -> None:
        """Add weights (`weight`) to those of an engine set's sizes; the least used ones beyond SIZES are forgotten."""
        key = sizes_key(self.queue, engine_set)
        with passing_over_damage(), answering(), self.client.pipeline() as together:
            for size, added in used.items():
                together.zincrby(key, added, size.text)
            together.zremrangebyrank(key, 0, -SIZES - 1)
            together.expire(key, SIZES_SECONDS)
            together.execute()

    def forget_sizes(self, engine_set: str) -> None:
        """Forget the sizes of an engine set."""
        with answering():
            self.client.delete(sizes_key(self.queue, engine_set))

    def sizes(self, engine_set: str) -> dict[StepSize, float]:
        """The sizes that an engine set was used at lately, with their weights, the most used one first."""
        pairs: list[tuple[str, float]] = []
        with passing_over_damage(), answering():
            most = self.client.zrange(sizes_key(self.queue, engine_set), 0, SIZES - 1, desc=True, withscores=True)
            pairs = cast("list[tuple[str, float]]", most)
        return most_used(pairs)
