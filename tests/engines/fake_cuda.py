"""What a capture needs of torch.cuda, without a GPU: streams, graphs and the pool, as torch 2.11 handles them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import pytest
import torch

CUDA = torch.device("cuda")


class FakeCuda:
    """Put in the place of torch.cuda's own by `install`; tensors stay on the CPU."""

    def __init__(self) -> None:
        self.current: Any = FakeStream()
        self.capturing = False
        self.made: list[FakeStream] = []
        self.graphs: WeakSet[FakeGraph] = WeakSet()
        self.pools: list[int] = []  # of the captures
        self.handles = 0
        self.replay_error: Exception | None = None
        self.capture_end_error: Exception | None = None

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(torch.cuda, "Stream", self._stream)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda _: self.current)
        monkeypatch.setattr(torch.cuda, "stream", self._on)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: FakeGraph(self))
        monkeypatch.setattr(torch.cuda, "graph", self._capture)
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", self._handle)

    def _stream(self, _: torch.device) -> FakeStream:
        self.made.append(FakeStream())
        return self.made[-1]

    @contextmanager
    def _on(self, stream: FakeStream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def _capture(self, graph: FakeGraph, *, pool: int, capture_error_mode: str) -> Iterator[None]:
        assert capture_error_mode == "thread_local"
        before, self.current, self.capturing = self.current, FakeStream(), True
        self.pools.append(pool)
        try:
            yield
        finally:
            self.capturing = False
            graph.capture_end()  # where this fails, torch's stays the current stream
            self.current = before

    def _handle(self) -> int:
        self.handles += 1
        return self.handles


class FakeStream:
    def wait_stream(self, other: FakeStream) -> None:
        """Nothing runs here."""


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        cuda.graphs.add(self)

    def capture_end(self) -> None:
        if self._cuda.capture_end_error is not None:
            raise self._cuda.capture_end_error

    def replay(self) -> None:
        if self._cuda.replay_error is not None:
            raise self._cuda.replay_error
