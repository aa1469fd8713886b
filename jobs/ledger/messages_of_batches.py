"""The messages of batches that are to be deleted: in the queue, among the delayed jobs, and with consumers.

All batches share these places, so each is read once for many batches, a stretch at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jobs.ledger.chunks import chunks
from jobs.ledger.delayed import ids_by_batch
from jobs.ledger.keys import delayed_key
from jobs.ledger.kombu_view import UNACKED, message_id
from jobs.ledger.ledger import Ledger
from jobs.ledger.redis_client import SCAN_COUNT, answering, scanned

BATCHES_AT_ONCE = 20  # the queue is read once for so many; each costs a look per message


def take_messages(ledger: Ledger, batches: Sequence[str], *, unfinished: bool = False) -> int:
    """Take the messages of the batches' ended jobs out of Redis; returns how many there were in the queue.

    With `unfinished`, those of their other jobs as well. Safe to repeat, and beside workers and producers.

    Raises:
        LedgerUnavailable: Redis does not answer; what was taken stays so.
    """
    taken = 0
    for some in chunks(batches, BATCHES_AT_ONCE):
        taken += ledger.sift(*some, unfinished=unfinished)
        _take_delivered(ledger, some, unfinished=unfinished)
    _take_delayed(ledger, set(batches), unfinished=unfinished)
    return taken


def _take_delivered(ledger: Ledger, batches: Sequence[str], *, unfinished: bool) -> None:
    """Take those that consumers have not acknowledged: kombu would put those of dead workers back into the queue.

    A live worker that acknowledges or returns a message that is not there any more does nothing.
    """
    tags = (tag for tag, text in scanned(ledger.client, UNACKED) if message_id(text) and "\ufffd" not in tag)
    for some in chunks(tags):
        ledger.kombu.drop_delivered(some, batches=batches, unfinished=unfinished)


def _take_delayed(ledger: Ledger, batches: Collection[str], *, unfinished: bool) -> None:
    with answering():
        entries = ledger.client.zscan_iter(delayed_key(ledger.queue), count=SCAN_COUNT)
        for some in chunks((member for member, _ in entries), SCAN_COUNT):
            for batch, ids in ids_by_batch(some).items():
                if batch in batches:
                    ledger.drop_delayed(batch, ids, unfinished=unfinished)
