"""The row numbers of a folder's pictures: each keeps the one it had, and new pictures get the next ones.

A job's id depends on its row. A CSV grows at its end, but a new picture sorts between the others, and would shift the
numbers of all behind it: every one of them would be rendered again. The manifest beside the results says which row each
picture had. Where it cannot be read, the rows are numbered in natural order, as they were first.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

from jobs.errors import RenderError
from jobs.job import RenderParameters
from jobs.storage.store import Store
from jobs.submission import Part, jobs_of, part_uris, read_head
from producer.console import place, say
from producer.submission import Request

Rows = Iterable[tuple[int, RenderParameters]]


class KeptRows:
    """What the manifest says of a source's rows now. The same rows get the same numbers as often as they are asked."""

    def __init__(self, request: Request, store: Store) -> None:
        self._known = _rows_of(request, store) if request.is_folder else None

    def number(self, rows: Rows) -> Rows:
        """The rows with the numbers that their jobs have in the batch. Those of a file stay as they are."""
        return rows if self._known is None else _numbered(rows, self._known)


def _numbered(rows: Rows, known: dict[int, bytes]) -> Iterator[tuple[int, RenderParameters]]:
    free: dict[bytes, list[int]] = defaultdict(list)
    for row in sorted(known, reverse=True):
        free[known[row]].append(row)  # two pictures may be rendered with the same parameters: two rows
    following = max(known, default=0) + 1
    for _, parameters in rows:
        if of_it := free.get(_digest(parameters)):
            yield of_it.pop(), parameters
        else:
            yield following, parameters
            following += 1


def _rows_of(request: Request, store: Store) -> dict[int, bytes]:
    """The digests of the parameters that each row of this source was submitted with last."""
    rows: dict[int, bytes] = {}
    try:
        for part in _parts(request, store):
            for job, _ in jobs_of(store, part, output=request.output):
                rows[job.row] = _digest(job.parameters)
    except RenderError as error:
        say(
            f"Which rows the pictures of {request.name} had before is not known: {error}. They are numbered anew, so "
            f"pictures behind a new one are rendered again. The manifest is in {place(request.output)}.",
            "warning",
        )
    return rows


def _parts(request: Request, store: Store) -> list[Part]:
    """Those of this source, oldest first: a later one has the rows as they are now."""
    parts = [read_head(store, uri) for uri in part_uris(store, request.output, request.batch)]
    of_it = (part for part in parts if part.head.source == request.origin and part.head.batch == request.batch)
    return sorted(of_it, key=lambda part: part.head.submitted_at)


def _digest(parameters: RenderParameters) -> bytes:
    return hashlib.blake2b(parameters.model_dump_json().encode(), digest_size=16).digest()
