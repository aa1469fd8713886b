"""The messages of batches that are to be deleted: in the queue, among the delayed jobs, and with consumers.

All batches share these places, so each is read once for many batches, a stretch at a time.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from jobs.ledger.chunks import chunks
from jobs.ledger.keys import delayed_key
from jobs.ledger.kombu_view import UNACKED, UNACKED_INDEX, message_id
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
        _take_delivered(ledger, some)
    _take_delayed(ledger, set(batches))
    return taken


def _take_delivered(ledger: Ledger, batches: Sequence[str]) -> None:
    """Those that consumers have not acknowledged: of workers that died, kombu would put them back into the queue.

    A live worker that acknowledges or returns a message that is not there any more does nothing.
    """
    delivered = [(tag, id_) for tag, text in scanned(ledger.client, UNACKED) if (id_ := message_id(text))]
    ids = [id_ for _, id_ in delivered]
    ours = {line.id for batch in batches for line in ledger.states_of(batch, ids)} if ids else set()
    tags = [tag for tag, id_ in delivered if id_ in ours and "\ufffd" not in tag]
    for some in chunks(tags, SCAN_COUNT):
        with answering(), ledger.client.pipeline() as together:
            together.hdel(UNACKED, *some)
            together.zrem(UNACKED_INDEX, *some)
            together.execute()


def _take_delayed(ledger: Ledger, batches: Collection[str]) -> None:
    key = delayed_key(ledger.queue)
    with answering():
        entries = ledger.client.zscan_iter(key, count=SCAN_COUNT)
        ours = (member for member, _ in entries if member.partition(" ")[0] in batches)
        for some in chunks(ours, SCAN_COUNT):
            ledger.client.zrem(key, *some)
