"""A stub GPU: graphs cost time by its own clock, which loops are given, and are counted. No test waits for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import torch

from tests.worker.loops import Device, Picture
from tests.worker.samples import sample_spec
from worker.render.batch import StepBatch
from worker.render.errors import DeviceOutOfMemory
from worker.render.loop import RenderLoop
from worker.render.request import BucketKey

CAPTURE = 1.0
FIXED, EACH = 0.002, 0.004  # seconds of a step: always, and for each sample


class GraphDevice(Device):
    """The host is one step ahead of it, as of a real one: a call returns when the step before it has ended."""

    def __init__(self, *, max_batch: int = 8, room: int = 99) -> None:
        """`room`: graphs of larger batches do not fit in its memory."""
        super().__init__(max_batch=max_batch)
        self.now = 0.0
        self.room = room
        self.captured: list[tuple[int, int, int]] = []  # height, width, batch
        self.padding = 0  # samples x steps
        self._graphs: dict[tuple[int, int, int], set[int]] = {}
        self._ends = 0.0

    def clock(self) -> float:
        return self.now

    def loop(self) -> RenderLoop:
        return RenderLoop(self, now=self.clock)

    def graph_sizes(self, key: BucketKey) -> tuple[int, ...]:
        return tuple(range(1, self.max_batch(key.height, key.width) + 1))

    def graphs(self, key: BucketKey) -> frozenset[int]:
        return frozenset(self._graphs.get(key[1:], ()))

    def warm(self, key: BucketKey, size: int) -> None:
        self._capture(key[1:], size)

    def unload(self) -> None:
        self.drop_graphs()

    def drop_graphs(self) -> bool:
        had_some = bool(self._graphs)
        self._graphs.clear()
        return had_some

    def step(self, batch: StepBatch) -> torch.Tensor:
        height, width = (8 * side for side in batch.latents.shape[2:])
        self._capture((height, width, batch.context.shape[1]), batch.size)
        previous, self._ends = self._ends, max(self.now, self._ends) + FIXED + EACH * batch.size
        self.now = max(self.now, previous)
        return super().step(batch)

    def _capture(self, key: tuple[int, int, int], size: int) -> None:
        if size in self._graphs.setdefault(key, set()):
            return
        if size > self.room:
            raise DeviceOutOfMemory("the graph does not fit")
        self.now = max(self.now, self._ends) + CAPTURE
        self._graphs[key].add(size)
        self.captured.append((*key[:2], size))

    def capture_all(self, shapes: Sequence[tuple[int, int]]) -> None:
        """Every graph of these shapes is there, and has cost nothing."""
        self._graphs |= {(*shape, 77): set(range(1, 1 + self.max_batch(*shape))) for shape in shapes}

    def sizes_of(self, shape: tuple[int, int]) -> list[int]:
        """The batch sizes that were captured for a shape, in order."""
        return [size for *captured, size in self.captured if tuple(captured) == shape]


def feed(loop: RenderLoop, shapes: Sequence[tuple[int, int]], *, in_flight: int, steps: int = 10) -> Counter[str]:
    """Draw one sample of each of these shapes, in order, as many at a time as a worker has; how they ended."""
    waiting = [sample_spec(number, size=shape, steps=steps) for number, shape in enumerate(shapes)][::-1]
    running: list[Picture] = []
    ended = Counter[str]()
    while waiting or running:
        while waiting and len(running) < max(in_flight, in_flight // 2 + loop.batch_places()):
            running.append(loop.submit(waiting.pop()))
        assert loop.step()
        for future in [one for one in running if one.done()]:
            error = future.exception()
            ended["done" if error is None else type(error).__name__] += 1
            running.remove(future)
    return ended
