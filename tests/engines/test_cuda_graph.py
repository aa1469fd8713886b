"""What of CUDA graphs can be checked without a GPU."""

from __future__ import annotations

import gc
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from engines.cuda_graph import Graphed, no_garbage_collection
from tests.engines.fake_cuda import CUDA, FakeCuda


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


def doubled(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {"x": 2 * inputs["x"]}


def of(size: int) -> dict[str, Tensor]:
    return {"x": torch.ones(size)}


OUT_OF_MEMORY = torch.OutOfMemoryError("CUDA out of memory")


def test_a_graph_whose_replay_runs_out_of_memory_is_known_to_be_there(cuda: FakeCuda) -> None:
    graphed = Graphed(doubled, CUDA)
    cuda.replay_error = OUT_OF_MEMORY
    with pytest.raises(torch.OutOfMemoryError):
        graphed(of(3))
    assert graphed.shapes == [{"x": (3,)}]
    graphed.clear()
    assert graphed.shapes == []
