"""A GPU's memory, as a scrape asks for it: from another thread, also while the loop captures a graph."""

from __future__ import annotations

import threading
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from engines.cuda_graph import Graphed
from worker.render.device import memory_of

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
