"""KnownSizes: batch sizes at which a device has run a call before, and how a batch is cut into such sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

# The first call at a new size costs about as much as so many calls that are cut or padded instead: on an H200 0.2 s of
# cuDNN's choices, against some 10 ms of small or empty calls.
PATIENCE = 16


class KnownSizes:
    """For calls by the kind of the call: what they do, and the picture's size. For one thread."""

    def __init__(self) -> None:
        self._known: dict[Hashable, set[int]] = {}
        self._missed: Counter[tuple[Hashable, int]] = Counter()

    def parts(self, kind: Hashable, samples: int) -> list[int]:
        """The sizes to run for so many samples, in order; the last one may be larger than what is left for it."""
        known = self._known.get(kind, set())
        if not known or samples in known:
            return [samples]
        self._missed[kind, samples] += 1
        return [samples] if self._missed[kind, samples] > PATIENCE else _cut(samples, sorted(known))

    def ran(self, kind: Hashable, size: int) -> None:
        """A call of this size has run."""
        self._known.setdefault(kind, set()).add(size)

    def forget(self, kind: Hashable) -> None:
        """Memory did not suffice for one of these sizes: cut no more batches into them."""
        self._known.pop(kind, None)


def _cut(samples: int, known: list[int]) -> list[int]:
    """The largest size that is full, again and again; then the smallest, padded."""
    parts = []
    while samples > 0:
        part = max((size for size in known if size <= samples), default=known[0])
        parts.append(part)
        samples -= part
    return parts
