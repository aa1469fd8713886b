"""Results in row order, in flat memory: Redis gives them in none, and a batch may hold a million."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from typing import IO

from jobs.job import RenderResult


def in_row_order(results: Iterable[RenderResult]) -> Iterator[RenderResult]:
    """The same results sorted by row, each once: a Redis scan may give an entry twice.

    They wait in a temporary file; only a row number and an offset each stay in memory.
    """
    with tempfile.TemporaryFile(prefix="producer-") as spool:
        places: list[tuple[int, int]] = []
        for result in results:
            places.append((result.row, spool.tell()))
            spool.write(result.model_dump_json().encode() + b"\n")
        places.sort()
        yield from _each_once(spool, places)


def _each_once(spool: IO[bytes], places: list[tuple[int, int]]) -> Iterator[RenderResult]:
    row, ids = 0, set[str]()  # a row that was corrected and submitted again has two jobs
    for place_row, offset in places:
        if place_row != row:
            row, ids = place_row, set()
        spool.seek(offset)
        result = RenderResult.model_validate_json(spool.readline())
        if result.id not in ids:
            ids.add(result.id)
            yield result
