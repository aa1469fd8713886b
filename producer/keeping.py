"""What a submission leaves in storage, and what it finds there when the ledger knows less than storage does."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from jobs.errors import RenderError
from jobs.job import RenderJob
from jobs.ledger.ledger import BatchInfo, Ledger
from jobs.ledger.sidecars import Sidecars
from jobs.storage.store import Store
from jobs.submission import SubmissionHead, SubmissionWriter
from producer.console import place, say


class Manifest:
    """Notes every job that is submitted. Storage may be out of this machine's reach: that is said, once."""

    def __init__(self, writer: Store, output: str, *, batch: str, source: str) -> None:
        head = SubmissionHead(batch=batch, source=source, submitted_at=time.time())
        self._output = output
        self._noted: SubmissionWriter | None = SubmissionWriter(writer, output, head)
        self._parts = 0

    @property
    def parts(self) -> int | None:
        """How many files were written; None where storage could not be reached."""
        return None if self._noted is None else self._noted.parts

    def note(self, jobs: Sequence[RenderJob]) -> None:
        """Keep jobs."""
        if self._noted is not None:
            try:
                self._noted.add(jobs)
            except RenderError as error:
                self._give_up(error)

    def close(self) -> None:
        """Write the last part."""
        if self._noted is not None:
            try:
                self._noted.close()
            except RenderError as error:
                self._give_up(error)

    def _give_up(self, error: RenderError) -> None:
        self._noted = None
        say(
            f"The manifest could not be written to {place(self._output)}: {error}. The batch goes on; should Redis "
            "lose its data, it can be brought back by submitting this file again, not by producer reconcile.",
            "warning",
        )


@contextmanager
def recovery(
    ledger: Ledger, info: BatchInfo, writer: Store, *, is_new: bool, settle_seconds: float
) -> Iterator[Sidecars | None]:
    """Around an enqueueing: where to look for what is done already, or None where the ledger knows best.

    The ledger notes that it is being made again until that is through, so that a submission which is cut short is
    gone on with in the same way. `settle_seconds` is how long live workers may take to say what they hold.
    """
    if is_new and _storage_knows(writer, f"{info.output}/{info.name}"):
        ledger.begin_rebuilding(info.name)
        say(f"{place(info.output)}/{info.name} has files that this Redis knows nothing of: what is done is not redone")
        time.sleep(settle_seconds)
    elif not ledger.is_rebuilding(info.name):
        yield None
        return
    with Sidecars(writer) as finished:
        yield finished
    ledger.end_rebuilding(info.name)


def _storage_knows(writer: Store, folder: str) -> bool:
    """Whether anything lies in a batch's folder. No, where storage cannot be asked."""
    with suppress(RenderError):
        return any(True for _ in writer.names(folder))
    return False
