"""Failures: why batches could not be reconciled in a pass over all of them, which goes on with the others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from jobs.errors import LedgerUnavailable
from jobs.ledger.redis_client import DAMAGED, is_away

DELAYED_JOBS = "(delayed jobs)"  # no batch has such a name


class Failures(dict[str, str]):
    """By batch. In a pass over one batch (`only`), its failure is the pass's own, and is raised."""

    def __init__(self, *, only: str | None) -> None:
        super().__init__()
        self._only = only

    @contextmanager
    def of(self, batch: str) -> Iterator[None]:
        """Around what is done for one batch. Where Redis does not answer, no batch is at fault: the error passes."""
        try:
            yield
        except LedgerUnavailable as error:
            if self._only is not None or is_away(error):
                raise
            self[batch] = str(error)
        except DAMAGED as error:
            if self._only is not None:
                raise
            self[batch] = f"what Redis has of it is damaged: {error}"
