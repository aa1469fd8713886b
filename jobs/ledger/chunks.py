"""How many jobs one script call moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

# Redis serves nobody else while a script runs: a few milliseconds for this many jobs.
CHUNK_JOBS = 250

Item = TypeVar("Item")


def chunks(items: Iterable[Item]) -> Iterator[list[Item]]:
    """At most CHUNK_JOBS items at a time, in order, without loading all of them into memory."""
    remaining = iter(items)
    while chunk := list(islice(remaining, CHUNK_JOBS)):
        yield chunk
