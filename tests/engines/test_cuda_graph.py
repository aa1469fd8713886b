"""What of CUDA graphs can be checked without a GPU."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from engines.cuda_graph import WARM_UPS, Graphed, GraphPool, no_garbage_collection
from tests.engines.fake_cuda import CUDA, FakeCuda


def out_of_memory() -> torch.OutOfMemoryError:
    """A new one each time: an error holds the frames that it has passed, and so their graphs."""
    return torch.OutOfMemoryError("CUDA out of memory")


class Old:
    """Like an old graph in a cycle of references: only the garbage collector finds it."""

    destroyed = 0

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        Old.destroyed += 1


@pytest.fixture(autouse=True)
def collector() -> None:
    gc.collect()
    Old.destroyed = 0


def test_no_garbage_is_collected_in_a_capture() -> None:
    Old()
    with no_garbage_collection():
        _ = [[] for _ in range(200_000)]  # enough to start a collection
        assert (gc.isenabled(), Old.destroyed) == (False, 0)
    assert gc.isenabled()
    gc.collect()
    assert Old.destroyed == 1


def test_a_collector_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with no_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_capture_that_fails_leaves_the_collector_on() -> None:
    with pytest.raises(RuntimeError), no_garbage_collection():
        raise RuntimeError
    assert gc.isenabled()


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    fake = FakeCuda()
    fake.install(monkeypatch)
    return fake


class Filling:
    """A function that needs too much memory, but only while it is captured; it notes the streams that it ran in."""

    def __init__(self, cuda: FakeCuda) -> None:
        self._cuda = cuda
        self.streams: list[object] = []
        self.too_large = False

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        self.streams.append(self._cuda.current)
        if self._cuda.capturing and self.too_large:
            raise out_of_memory()
        return {"x": 2 * inputs["x"]}


def doubled(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"x": 2 * inputs["x"]}


def of(size: int) -> dict[str, Tensor]:
    return {"x": torch.ones(size)}


def test_a_graph_whose_replay_runs_out_of_memory_is_known_to_be_there(cuda: FakeCuda) -> None:
    graphed = Graphed(doubled, CUDA)
    cuda.replay_error = out_of_memory()
    with pytest.raises(torch.OutOfMemoryError):
        graphed(of(3))
    assert graphed.shapes == [{"x": (3,)}]
    graphed.clear()
    assert graphed.shapes == []


def test_a_capture_that_runs_out_of_memory_drops_all_graphs_of_its_pool(cuda: FakeCuda) -> None:
    """As long as one is left, torch keeps the memory that the capture has taken."""
    pool = GraphPool()
    filling = Filling(cuda)
    here, other = Graphed(filling, CUDA, pool), Graphed(doubled, CUDA, pool)
    elsewhere = Graphed(doubled, CUDA)
    for one in (here, other, elsewhere):
        one(of(1))
    filling.too_large = True
    with pytest.raises(torch.OutOfMemoryError):
        here(of(2))
    assert [len(one.shapes) for one in (here, other, elsewhere)] == [0, 0, 1]
    assert [here.capture_seconds, other.capture_seconds] == [0.0, 0.0]
    assert len(cuda.graphs) == 1
    assert [pool.take_loss(), pool.take_loss()] == [True, False]
    filling.too_large = False
    here(of(2))
    assert cuda.pools == [1, 1, 2, 1, 3]  # torch has freed the first pool


def test_what_a_failed_capture_has_dropped_is_no_news_after_the_next_capture(cuda: FakeCuda) -> None:
    pool = GraphPool()
    filling = Filling(cuda)
    filling.too_large = True
    graphed = Graphed(filling, CUDA, pool)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(of(1))
    assert not pool.take_loss()  # there was none
    filling.too_large = False
    graphed(of(1))
    filling.too_large = True
    with pytest.raises(torch.OutOfMemoryError):
        graphed(of(2))
    filling.too_large = False
    graphed(of(2))
    assert not pool.take_loss()


def test_a_warm_up_that_runs_out_of_memory_drops_no_graph(cuda: FakeCuda) -> None:
    def small(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if len(inputs["x"]) > 1:
            raise out_of_memory()
        return doubled(inputs)

    graphed = Graphed(small, CUDA)
    graphed(of(1))
    with pytest.raises(torch.OutOfMemoryError):
        graphed(of(2))
    assert graphed.shapes == [{"x": (1,)}]


def test_all_warm_ups_of_a_pool_run_in_one_stream_and_no_capture_does(cuda: FakeCuda) -> None:
    """cuBLAS keeps a workspace for each stream."""
    pool = GraphPool()
    functions = [Filling(cuda), Filling(cuda)]
    for function in functions:
        for size in (1, 2, 3):
            Graphed(function, CUDA, pool)(of(size))
    (side,) = cuda.made
    for function in functions:
        warm_ups = [stream is side for stream in function.streams]
        assert warm_ups == ([True] * WARM_UPS + [False]) * 3


def test_a_capture_whose_end_fails_leaves_the_thread_on_its_stream(cuda: FakeCuda) -> None:
    before = cuda.current
    cuda.capture_end_error = out_of_memory()
    graphed = Graphed(doubled, CUDA)
    with pytest.raises(torch.OutOfMemoryError):
        graphed(of(1))
    assert cuda.current is before
    assert graphed.shapes == []
