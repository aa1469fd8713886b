"""PageData: the JSON that the page asks for every few seconds. It is made once, however many people look."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass

from jobs.ledger.ledger import Ledger
from jobs.ledger.records import Counts
from producer.keep.board import Board
from producer.keep.details import details
from producer.keep.observation import BatchCounts
from producer.keep.overview import overview
from producer.keep.paces import Paces

FRESH_SECONDS = 2.0  # between two reads of a batch that changes
OLD_SECONDS = 15.0  # the same of one whose counts do not change
KEPT_BATCHES = 32
WAIT_SECONDS = 10.0  # for the read of another request

_NOT_A_NUMBER = re.compile("NaN|Infinity")


@dataclass(frozen=True)
class Document:
    """JSON, and a tag (ETag) that changes with it."""

    body: bytes
    tag: str

    @classmethod
    def of(cls, record: dict[str, object]) -> Document:
        """Half of a surrogate pair becomes a question mark, and NaN and infinity become null: JSON cannot hold them."""
        text = json.dumps(record, ensure_ascii=False, separators=(",", ":"))
        if _NOT_A_NUMBER.search(text):
            numbers = json.loads(text, parse_constant=lambda _: None)
            text = json.dumps(numbers, ensure_ascii=False, separators=(",", ":"))
        body = text.encode("utf-8", "replace")
        return cls(body, f'"{hashlib.sha256(body).hexdigest()[:20]}"')


@dataclass(frozen=True)
class _Read:
    document: Document
    counts: Counts
    at: float
    seconds: float

    def serves(self, counts: Counts) -> bool:
        """Whether it is recent enough. Reads of one batch take at most a tenth of the time."""
        age = time.monotonic() - self.at
        return age < max(FRESH_SECONDS, 9 * self.seconds) or (age < OLD_SECONDS and counts == self.counts)


class PageData:
    """Reads what the page shows. Safe to use from many threads."""

    def __init__(self, ledger: Ledger, board: Board, paces: Paces) -> None:
        self._ledger = ledger
        self._board = board
        self._paces = paces
        self._overview: tuple[object, Document] | None = None
        self._read: OrderedDict[str, _Read] = OrderedDict()
        self._reading = threading.Lock()

    def overview(self) -> Document:
        """Everything, as of the last look."""
        self._board.note_view()
        state = (self._board.observation, self._board.redis, self._board.totals)
        known = self._overview
        if known is None or known[0] != state:
            known = (state, Document.of(overview(self._board, self._paces)))
            self._overview = known
        return known[1]

    def details(self, name: str) -> Document | None:
        """One batch; None if no batch has that name, or if Redis is too slow for all the requests.

        Raises:
            LedgerUnavailable: Redis does not answer.
        """
        batch = self._batch(name)
        if batch is None:
            return None
        known = self._read.get(name)
        if known is not None and known.serves(batch.counts):
            return known.document
        if not self._reading.acquire(timeout=0.0 if known else WAIT_SECONDS):
            return known.document if known else None
        try:
            known = self._read.get(name)
            return known.document if known and known.serves(batch.counts) else self._newly_read(batch)
        finally:
            self._reading.release()

    def _newly_read(self, batch: BatchCounts) -> Document:
        begun = time.monotonic()
        document = Document.of(details(self._ledger, batch))
        now = time.monotonic()
        self._read[batch.info.name] = _Read(document, batch.counts, now, now - begun)
        self._read.move_to_end(batch.info.name)
        while len(self._read) > KEPT_BATCHES:
            self._read.popitem(last=False)
        return document

    def _batch(self, name: str) -> BatchCounts | None:
        seen = self._board.observation
        return next((batch for batch in seen.batches if batch.info.name == name), None) if seen else None
