"""Part: a piece of a file, for those who need its beginning only."""

from __future__ import annotations

from typing import NamedTuple


class Part(NamedTuple):
    """The bytes from the place that was asked for; fewer than asked for only where the file ends.

    `total` are the bytes of the whole file, None where the store does not say.
    """

    data: bytes
    total: int | None
