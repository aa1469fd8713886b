"""Sifting: taking the messages of ended jobs out of the queue, while workers take from it and producers add to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jobs.ledger.chunks import CHUNK_JOBS
from jobs.ledger.keys import batch_key, sifted_key
from jobs.ledger.lua import Scripts
from jobs.ledger.redis_client import SCAN_COUNT

# Up to so many messages are removed one by one, each in a search through the queue that takes Redis 20 ms per million
# messages. For more, the whole queue is moved once around.
ONE_BY_ONE = 500


class Sifter:
    """Sifts one queue for some batches, a few dozen at most. With `unfinished`, the messages of all of their jobs go.

    Every step is atomic, so a step that is the last one loses nothing.

    Raises:
        LedgerUnavailable: Redis does not answer; what was removed stays so.
    """

    def __init__(self, scripts: Scripts, queue: str, batches: Iterable[str], *, unfinished: bool) -> None:
        self._scripts = scripts
        self._queue = queue
        self._states = [batch_key(batch, "states") for batch in batches]
        self._all = int(unfinished)
        self._keys = [queue, sifted_key(queue), *self._states]

    def sift(self, length: int) -> int:
        """Remove these messages from a queue of `length` messages; returns how many."""
        few: list[str] = []
        for item in self._left_over():
            few.append(item)
            if len(few) > ONE_BY_ONE:
                return self._move_around(length)
        return sum(self._drop(item) for item in few)

    def _left_over(self) -> Iterator[str]:
        first = 0
        while True:
            keys, stretch = [self._queue, *self._states], [first, first + SCAN_COUNT - 1, self._all]
            number, items = self._scripts.run("left_over", keys=keys, arguments=stretch)
            yield from items
            if number < SCAN_COUNT:
                return
            first += SCAN_COUNT

    def _drop(self, item: str) -> int:
        return int(self._scripts.run("drop", keys=self._keys, arguments=[item, self._all]))

    def _move_around(self, length: int) -> int:
        """One round of the queue, a stretch at a time, so that Redis serves others in between.

        The round ends at the first message that was kept, or after as many messages as there were at its beginning.
        """
        mark, dropped, is_over = "", 0, 0
        while length > 0 and not is_over:
            stretch = [min(length, CHUNK_JOBS), mark, self._all]
            seen, gone, mark, is_over = self._scripts.run("sift", keys=self._keys, arguments=stretch)
            length -= int(seen)
            dropped += int(gone)
        return dropped
