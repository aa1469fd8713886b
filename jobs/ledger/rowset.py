"""A compact set of rows, for manifests of a million."""

from __future__ import annotations

from collections import defaultdict

_BLOCK_ROWS = 1024


class RowSet:
    """Rows of several files, at about a bit each where a file has most of its rows in it. A `set` takes 100 bytes.

    A row is named by its file's prefix (BatchInfo.row_prefix) and its number.
    """

    def __init__(self) -> None:
        self._blocks: defaultdict[tuple[str, int], int] = defaultdict(int)

    def add(self, prefix: str, row: int) -> None:
        """Put a row in."""
        self._blocks[prefix, row // _BLOCK_ROWS] |= 1 << row % _BLOCK_ROWS

    def __contains__(self, prefixed: tuple[str, int]) -> bool:
        prefix, row = prefixed
        return bool(self._blocks.get((prefix, row // _BLOCK_ROWS), 0) >> row % _BLOCK_ROWS & 1)
