"""How many jobs one script call moves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

# Redis serves no other client while a script runs: a few milliseconds for this many jobs.
CHUNK_JOBS = 250

Item = TypeVar("Item")


def chunks(items: Iterable[Item], size: int | None = None) -> Iterator[list[Item]]:
    """At most `size` items at a time (None: CHUNK_JOBS), in order, without loading all of them into memory."""
    remaining = iter(items)
    while chunk := list(islice(remaining, CHUNK_JOBS if size is None else size)):
        yield chunk
