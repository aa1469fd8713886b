"""Damage: what to say of an entry in Redis that this program did not write, or not like that."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

LONGEST_SHOWN = 60  # characters of an entry


class LedgerDamaged(ValueError):
    """An entry cannot be read. `str(error)` is a sentence that names it and says what to do."""

    def __init__(self, batch: str, what: str) -> None:
        super().__init__(
            f"what Redis has of batch {batch!r} is damaged: {what}. Perhaps another program uses the same database. "
            f"producer delete {batch} --force forgets the batch; its pictures stay, and submitting its rows again "
            "finds them"
        )


@contextmanager
def damaged(batch: str, what: str) -> Iterator[None]:
    """Around the reading of an entry: whatever is wrong with it becomes LedgerDamaged."""
    try:
        yield
    except (ValueError, LookupError, TypeError) as error:
        raise error if isinstance(error, LedgerDamaged) else LedgerDamaged(batch, what) from error


def shown(entry: object) -> str:
    """An entry for a sentence."""
    text = repr(entry)
    return text if len(text) <= LONGEST_SHOWN else f"{text[: LONGEST_SHOWN - 3]}..."
