"""Padded graphs on a GPU: the same pictures, and a loop that warms.

python -m pytest -m gpu tests/gpu/test_graph_sizes.py
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from engines.build.builder import build_set
from engines.check.score import psnr
from engines.engine_set import EngineSet, load_engine_set
from tests.gpu.test_triton_sets import SHAPE, request_for, sample
from tests.models import CACHE
from worker.engine_loop import machines_of
from worker.render.decoding import Decoding
from worker.render.denoiser import EngineDenoiser
from worker.render.errors import DeviceOutOfMemory
from worker.render.loop import RenderLoop
from worker.render.request import BucketKey, ImageSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]
KEY = BucketKey("", *SHAPE, 77)


@pytest.fixture(scope="module")
def folder() -> Path:
    out = CACHE / "demo-triton"
    build_set(request_for(out, "triton", "fp16"))
    return out


@pytest.fixture(scope="module")
def engines(folder: Path) -> Iterator[EngineSet]:
    with load_engine_set(folder, device="cuda") as opened:
        yield opened


def drawn(loop: RenderLoop, requests: list[ImageSpec]) -> list[np.ndarray]:
    futures = [loop.submit(request) for request in requests]
    while loop.step():
        pass
    return [future.result(60) for future in futures]


def warmed(denoiser: EngineDenoiser, *sizes: int) -> RenderLoop:
    loop = RenderLoop(denoiser)
    loop.warm_up([(KEY, size) for size in sizes])
    while loop.warm():
        pass
    assert denoiser.graphs(KEY) == set(sizes)
    return loop


def test_a_padded_graph_draws_what_an_unpadded_one_draws(engines: EngineSet) -> None:
    requests = [sample(number) for number in range(3)]
    padded, exact = warmed(EngineDenoiser(engines), 4), warmed(EngineDenoiser(engines), 3)
    found, expected = drawn(padded, requests), drawn(exact, requests)
    assert padded.stats().padded_sample_steps == 12
    assert exact.stats().padded_sample_steps == 0
    assert min(psnr(one, other) for one, other in zip(found, expected, strict=True)) >= 45
    again = drawn(padded, requests)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


def test_requests_that_take_turns_in_a_smaller_graph_are_drawn_the_same(engines: EngineSet) -> None:
    requests = [sample(number, steps=6 + number) for number in range(4)]
    found = drawn(warmed(EngineDenoiser(engines), 2), requests)
    expected = drawn(warmed(EngineDenoiser(engines), 4), requests)
    assert min(psnr(one, other) for one, other in zip(found, expected, strict=True)) >= 45


def test_noise_shares_the_graph_of_steps_without_it(engines: EngineSet) -> None:
    denoiser = EngineDenoiser(engines)
    loop = warmed(denoiser, 2)
    plain, noisy = sample(1), ImageSpec(**(vars(sample(2)) | {"eta": 1.0}))
    drawn(loop, [plain, noisy])
    assert denoiser.graphs(KEY) == {2}
    assert loop.stats().captures["step"].number == 0


def test_a_warmed_size_costs_a_step_nothing_and_an_unknown_one_is_timed(engines: EngineSet) -> None:
    loop = warmed(EngineDenoiser(engines), 1)
    drawn(loop, [sample(0, steps=4)])
    captures = loop.stats().captures
    assert (captures["idle"].number, captures["step"].number) == (1, 0)
    assert captures["idle"].seconds > 0


def test_graphs_that_were_dropped_leave_nothing_behind_however_many_they_were(engines: EngineSet) -> None:
    """Nor do their warm-ups: cuBLAS keeps a workspace for each stream, of 32 MiB on sm90."""
    denoiser = EngineDenoiser(engines)

    def after(*sizes: int) -> int:
        warmed(denoiser, *sizes)
        assert denoiser.drop_graphs()
        return torch.cuda.memory_allocated()

    once = after(1)
    assert after(1, 2, 3, 4) - once < 16 << 20


def test_a_graph_stays_whose_pictures_did_not_fit_beside_it_while_idle(
    engines: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = EngineDenoiser(engines)

    def short(latents: torch.Tensor) -> Decoding:
        raise DeviceOutOfMemory(f"no room for {len(latents)} pictures")

    monkeypatch.setattr(denoiser, "decode", short)
    loop = warmed(denoiser, 4)
    monkeypatch.undo()
    assert all(picture.shape == (*SHAPE, 3) for picture in drawn(loop, [sample(number) for number in range(4)]))
    assert denoiser.graphs(KEY) == {4}


def test_the_card_and_the_libraries_are_named(engines: EngineSet) -> None:
    (machine,) = machines_of({engines.digest: engines}).values()
    assert torch.cuda.get_device_name() in machine
    assert torch.__version__ in machine
