"""A set of job ids that stays small: a queue may hold a million of them."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable

_BUCKETS = 256
_SHIFT = 56


class IdSet:
    """Ids of 20 hexadecimal digits, eight bytes each where a `set` of texts takes a hundred.

    Ids are hashes of 80 bits, of which 64 are kept: among a million, one that is not there passes for one that is
    once in 18 trillion questions.
    """

    def __init__(self, ids: Iterable[str]) -> None:
        buckets = [array("Q") for _ in range(_BUCKETS)]
        for id_ in ids:
            number = int(id_[:16], 16)
            buckets[number >> _SHIFT].append(number)
        self._buckets = [array("Q", sorted(bucket)) for bucket in buckets]  # a bucket at a time: sorting makes a list

    def __contains__(self, id_: str) -> bool:
        number = int(id_[:16], 16)
        bucket = self._buckets[number >> _SHIFT]
        place = bisect_left(bucket, number)
        return place < len(bucket) and bucket[place] == number

    def __len__(self) -> int:
        """Copies of an id counted."""
        return sum(map(len, self._buckets))
