"""Real engines on the CPU, treated as if a new batch size cost much: padding must change no picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import cv2
import numpy as np
import pytest
import torch

from engines.check.score import psnr
from engines.cuda_graph import Function, Graphed
from engines.engine_set import EngineSet, load_engine_set
from tests.models import tiny_engine_set
from tests.worker.samples import sample_spec
from worker.render.denoiser import EngineDenoiser
from worker.render.loop import RenderLoop
from worker.render.request import BucketKey, ImageSpec

SIDE = 64
KEY = BucketKey("", SIDE, SIDE, 77)


class Noted(Graphed):
    """Notes the shapes that a GPU would capture. On a CPU nothing is captured; everything else is as on a GPU."""

    def __init__(self, function: Function) -> None:
        super().__init__(function, torch.device("cpu"))
        self._noted: list[dict[str, tuple[int, ...]]] = []

    def __call__(self, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        outputs = super().__call__(inputs)
        shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
        if shapes not in self._noted:
            self._noted.append(shapes)
        return outputs

    @property
    def shapes(self) -> list[dict[str, tuple[int, ...]]]:
        return self._noted

    def clear(self) -> None:
        self._noted.clear()


class Costly(EngineDenoiser):
    """A denoiser whose steps cost extra at each new size."""

    def __init__(self, engines: EngineSet, *, low_vram: bool = False) -> None:
        super().__init__(engines, low_vram=low_vram)
        self._step = Noted(self._one_step)

    @property
    def sizes_cost(self) -> bool:
        return True


@pytest.fixture(scope="module")
def engines() -> Iterator[EngineSet]:
    folder = tiny_engine_set(shapes=("64x64:512x512",))
    with load_engine_set(folder, device="cpu") as opened:
        yield opened


def spec(number: int, *, steps: int, eta: float = 0.0) -> ImageSpec:
    edges = np.zeros((SIDE, SIDE), np.uint8)
    cv2.circle(edges, (20 + 4 * number, 30), 10 + number, 255)
    return sample_spec(number, edges=edges, steps=steps, eta=eta)


def drawn(denoiser: EngineDenoiser, specs: list[ImageSpec], *, warmed: tuple[int, ...] = ()) -> list[np.ndarray]:
    loop = RenderLoop(denoiser)
    loop.warm_up([(KEY, size) for size in warmed])
    while loop.warm():
        pass
    futures = [loop.submit(one) for one in specs]
    while loop.step():
        pass
    if warmed:
        assert loop.stats().padded_sample_steps > 0
    return [future.result(0) for future in futures]


def test_pictures_of_a_padded_batch_are_those_of_an_unpadded_one(engines: EngineSet) -> None:
    """With different steps, so that the batch has tails of two samples and of one, with and without noise."""
    specs = [spec(0, steps=2), spec(1, steps=3, eta=0.5), spec(2, steps=5)]
    found = drawn(Costly(engines), specs, warmed=(4,))
    expected = drawn(EngineDenoiser(engines), specs)
    assert min(psnr(one, other) for one, other in zip(found, expected, strict=True)) >= 50


def test_pictures_of_a_batch_whose_requests_take_turns_are_the_same(engines: EngineSet) -> None:
    specs = [spec(number, steps=2 + number) for number in range(3)]
    expected = drawn(EngineDenoiser(engines), specs)
    denoiser = Costly(engines)
    denoiser.warm(KEY, 2)
    found = drawn(denoiser, specs)
    assert min(psnr(one, other) for one, other in zip(found, expected, strict=True)) >= 50


def test_a_cpu_is_not_warmed_and_pads_nothing(engines: EngineSet) -> None:
    denoiser = EngineDenoiser(engines)
    assert denoiser.graph_sizes(KEY) == ()
    loop = RenderLoop(denoiser)
    loop.warm_up([(KEY, 4)])
    assert not loop.warm()


def test_a_size_that_leaves_no_graph_is_not_prepared_over_and_over(
    engines: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Noted, "shapes", [])
    loop = RenderLoop(Costly(engines))
    loop.warm_up([(KEY, 4)])
    assert [loop.warm(), loop.warm()] == [True, False]


def test_sizes_that_the_set_does_not_draw_are_not_prepared(engines: EngineSet) -> None:
    denoiser = Costly(engines)
    assert denoiser.graph_sizes(KEY) == (1, 2, 3, 4)
    assert denoiser.graph_sizes(KEY._replace(height=8192)) == ()
    assert denoiser.graph_sizes(KEY._replace(tokens=154)) == ()
    assert denoiser.graph_sizes(KEY._replace(tokens=78)) == ()
    assert Costly(engines, low_vram=True).graph_sizes(KEY) == ()


def test_a_decoder_that_has_no_memory_for_padding_decodes_without_it(
    engines: EngineSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    denoiser = Costly(engines)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    expected = denoiser.decode(latents).pictures()
    decode = engines.engine("decoder")

    def small(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if len(inputs["latent"]) > 3:
            raise torch.OutOfMemoryError("out of memory")
        return decode(inputs)

    monkeypatch.setitem(engines._engines, "decoder", small)
    found = denoiser.decode(latents[:1]).pictures()
    assert found[0] is not None
    assert expected[0] is not None
    assert psnr(found[0], expected[0]) >= 50
