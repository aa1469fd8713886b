"""Finished jobs that storage knows and the ledger does not: where to look for them, and what to say if that fails."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import OutputForbidden, RenderError, SourceForbidden
from jobs.ledger.ledger import Ledger
from jobs.ledger.records import BatchInfo
from jobs.ledger.sidecars import Sidecars
from jobs.storage.store import Store
from producer.console import count, place, say


@contextmanager
def recovery(ledger: Ledger, info: BatchInfo, store: Store, *, settle_seconds: float) -> Iterator[Sidecars | None]:
    """Around the enqueueing: where to look for finished jobs, or None where the ledger knows them all.

    A batch that the ledger does not know was marked as being rebuilt before it was registered, and stays so until the
    block ends. A submission that is cut short, be it while storage is listed, therefore continues in the same way.
    `settle_seconds` is how long live workers may take to report the jobs that they hold.
    """
    if not ledger.is_rebuilding(info.name):
        yield None
        return
    if ledger.counts(info.name).total == 0:  # otherwise an earlier submission has looked already
        if not _storage_may_know(store, info):
            ledger.end_rebuilding(info.name)
            yield None
            return
        time.sleep(settle_seconds)
    with Sidecars(store) as sidecars:
        yield sidecars
    say_unknown(sidecars.unknown, sidecars.refusal, info.output, batch=info.name)
    ledger.end_rebuilding(info.name)


def say_unknown(jobs: int, refusal: str | None, output: str, *, batch: str) -> None:
    """Warn that finished jobs may be rendered again, where storage refused to show sidecars."""
    if jobs:
        say(
            f"Whether {count(jobs, 'job')} of batch {batch!r} had been rendered before is not known: {refusal}. They "
            f"are queued, and finished ones among them will be rendered again. {missing_right(output)}",
            "warning",
        )


def missing_right(output: str) -> str:
    """The rights that the command needs to see what storage has."""
    if output.startswith("s3:"):
        return (
            "To look, the keys of this machine need s3:GetObject on the output, and s3:ListBucket on its bucket: "
            "without that, S3 refuses to say that an object does not exist."
        )
    return f"To look, the user who runs this command must be able to read {place(output)}."


def _storage_may_know(store: Store, info: BatchInfo) -> bool:
    """Whether there is anything in a batch's folder, or storage refuses to say so; False where it does not answer."""
    folder = f"{info.output}/{info.name}"
    try:
        if not any(True for _ in store.names(folder)):
            return False
    except (OutputForbidden, SourceForbidden):
        say(f"{place(folder)} may not be listed, so each job is looked for by itself: what is done is not redone")
        return True
    except RenderError as error:
        say(
            f"This Redis knows nothing of batch {info.name!r}, and storage cannot be asked: {error}. If jobs of it "
            "were finished before, they will be rendered again.",
            "warning",
        )
        return False
    say(f"{place(folder)} has files that this Redis knows nothing of: what is done is not redone")
    return True
