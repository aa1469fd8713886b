"""A GPU's memory, as a scrape asks for it: from another thread, also while the loop captures a graph."""

from __future__ import annotations

import gc
import threading
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from engines.cuda_graph import Graphed, GraphPool
from tests.gpu.memory_limit import GIB, room_for
from tests.worker.loops import Device, kinds, run
from tests.worker.samples import sample_spec
from worker.fake import FakeDenoiser
from worker.render.decoding import Decoding
from worker.render.device import memory_of, translated_errors
from worker.render.loop import RenderLoop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]

DEVICE = torch.device("cuda")


def test_what_a_tensor_takes_is_allocated_and_used() -> None:
    before = memory_of(DEVICE)
    held = torch.empty(1 << 30, dtype=torch.uint8, device=DEVICE)
    after = memory_of(DEVICE)
    assert after["allocated"] - before["allocated"] >= held.numel()
    assert after["allocated"] <= after["used"] <= after["total"] == before["total"]


class Filling:
    """Doubles `x`; of more than one value only if the device has room for 4 GiB more, and only while it is captured."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["x"]
        held: dict[int, Tensor] = {}
        if len(x) > 1 and torch.cuda.is_current_stream_capturing():
            for number in range(16):
                held[number] = torch.empty(GIB // 4, dtype=torch.uint8, device=DEVICE)
                held[number][:1].zero_()  # so that the graph is not empty
        return {"x": 2 * x}


def test_what_a_capture_took_before_it_ran_out_of_memory_is_free_again() -> None:
    """Beside another function's graph, which would keep the pool that they share."""
    pool = GraphPool()
    small, filling = Graphed(Filling(), DEVICE, pool), Graphed(Filling(), DEVICE, pool)
    small({"x": torch.ones(1, device=DEVICE)})
    two = torch.ones(2, device=DEVICE)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved()
    with room_for(2 * GIB):
        try:
            filling({"x": two})
        except torch.OutOfMemoryError:
            ran_out = True
        else:
            ran_out = False
        torch.cuda.empty_cache()
        assert ran_out
        assert small.shapes == []
        assert torch.cuda.memory_reserved() <= before + GIB // 4
        torch.empty(GIB, dtype=torch.uint8, device=DEVICE)  # which an ordinary call gets
    torch.testing.assert_close(filling({"x": two})["x"], 2 * two)
    torch.testing.assert_close(small({"x": two})["x"], 2 * two)


class Greedy(Device):
    """Its decoder takes a GiB for each picture."""

    def decode(self, latents: Tensor) -> Decoding:
        self._called("decode", len(latents))
        activations: dict[int, Tensor] = {}
        with translated_errors():
            for number in range(len(latents)):
                activations[number] = torch.empty(GIB, dtype=torch.uint8, device=DEVICE)
        return FakeDenoiser.decode(self, latents)


def test_what_a_call_had_taken_before_it_ran_out_of_memory_is_free_for_its_halves() -> None:
    """There is room for three pictures' activations, which must not wait for the garbage collector."""
    device = Greedy(max_batch=4)
    loop = RenderLoop(device)
    futures = [loop.submit(sample_spec(number)) for number in range(4)]
    gc.disable()
    try:
        with room_for(3 * GIB + GIB // 2):
            run(loop)
    finally:
        gc.enable()
    assert kinds(futures) == ["done"] * 4
    assert device.sizes("decode") == [4, 2, 2]


def test_a_capture_whose_end_fails_leaves_the_thread_on_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instantiating a graph can run out of memory, which is no reason to end the worker."""
    capture_end = torch.cuda.CUDAGraph.capture_end

    def failing(graph: torch.cuda.CUDAGraph) -> None:
        capture_end(graph)
        raise torch.OutOfMemoryError("CUDA error: out of memory")

    graphed, one = Graphed(Filling(), DEVICE), torch.ones(1, device=DEVICE)
    before = torch.cuda.current_stream()
    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_end", failing)
    with pytest.raises(torch.OutOfMemoryError):
        graphed({"x": one})
    assert torch.cuda.current_stream() == before
    monkeypatch.undo()
    torch.testing.assert_close(graphed({"x": one})["x"], 2 * one)


def test_captures_of_many_shapes_leave_one_workspace_behind() -> None:
    """cuBLAS keeps one for each stream, of 32 MiB on sm90, and a new stream for each capture would add up."""

    def product(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"x": inputs["x"] @ inputs["w"]}

    graphed, allocated = Graphed(product, DEVICE), []
    w = torch.randn(512, 512, device=DEVICE, dtype=torch.float16)
    for size in (64, 128, 192, 256):
        graphed({"x": torch.randn(size, 512, device=DEVICE, dtype=torch.float16), "w": w})
        torch.cuda.synchronize()
        graphed.clear()
        allocated.append(torch.cuda.memory_allocated())
    assert allocated[-1] - allocated[0] < 8 << 20


def test_asking_during_a_capture_disturbs_neither() -> None:
    stop, answers = threading.Event(), []

    def ask() -> None:
        while not stop.is_set():
            answers.append(memory_of(DEVICE)["total"])

    def many(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        x = inputs["x"]
        for _ in range(200):
            x = torch.nn.functional.silu(x @ inputs["w"])
        return {"x": x}

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        for size in (64, 128, 192, 256):  # one capture a shape
            given = {"x": torch.randn(size, 512, device=DEVICE), "w": torch.randn(512, 512, device=DEVICE) / 16}
            torch.testing.assert_close(Graphed(many, DEVICE)(given)["x"], many(given)["x"])
    finally:
        stop.set()
        thread.join()
    assert len(set(answers)) == 1
