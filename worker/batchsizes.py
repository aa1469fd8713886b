"""BatchSizes: the sizes of batch that a GPU's step is captured at, and when it is worth capturing one more.

The first step at a new size costs about a second: libraries choose their kernels, then the graph is captured. A batch
may instead be padded to a larger size that is captured already, and waste a part of each step. Which is cheaper depends
on how many batches of that size are to come, which nobody knows; so what padding wasted is added up, and a size that
has wasted the price of a capture gets one. This costs at most twice what knowing would (Karlin et al., "Competitive
snoopy caching", 1988: the ski rental problem).
"""

from __future__ import annotations

from collections import defaultdict

Shape = tuple[int, int]

# In steps of one sample of 512x512 pixels: 5 ms each on an H200, where a first step took 0.9 to 1.4 s.
CAPTURE_PRICE = 200.0
_PIXELS = 512 * 512


class BatchSizes:
    """One a process; the GPU's thread alone calls it."""

    def __init__(self) -> None:
        self._captured: defaultdict[Shape, set[int]] = defaultdict(set)
        self._wasted: defaultdict[tuple[Shape, int], float] = defaultdict(float)

    def choose(self, samples: int, shape: Shape, *, steps: int) -> int:
        """The size for a batch of `samples` that will stay together for `steps` steps: theirs, or a larger one."""
        larger = [size for size in self._captured[shape] if size >= samples]
        if not larger or min(larger) == samples:
            return samples
        best = min(larger)
        self._wasted[shape, samples] += (best - samples) * steps * shape[0] * shape[1] / _PIXELS
        return samples if self._wasted[shape, samples] > CAPTURE_PRICE else best

    def captured(self, size: int, shape: Shape) -> None:
        """A step of this size has been taken."""
        self._captured[shape].add(size)

    def too_large(self, size: int, shape: Shape) -> None:
        """A step of this size did not fit in memory: nothing is padded to it, or beyond, until it fits again."""
        self._captured[shape] = {other for other in self._captured[shape] if other < size}

    def clear(self) -> None:
        """All captures are gone; what was wasted is not."""
        self._captured.clear()
