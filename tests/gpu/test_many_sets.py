"""Two triton sets in one process: kernels in one folder, graphs in one pool, and each set's own pictures.

python -m pytest -m gpu tests/gpu/test_many_sets.py
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.backends.triton.kernel_cache import CACHE as KERNELS
from engines.build.builder import BuildRequest, build_set
from engines.check.score import psnr
from engines.engine_set import EngineSet, load_engine_set
from engines.spec import Profile
from tests.gpu.test_triton_sets import WEIGHTS, sample
from tests.models import CACHE
from worker.render.denoiser import EngineDenoiser, SharedDevice
from worker.render.denoisers import Denoisers
from worker.render.loop import RenderLoop
from worker.render.request import ImageSpec
from worker.render.residency import Residency

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]


def built(name: str, factor: float) -> Path:
    """A set of the demo model, whose U-Net predicts so many times as much noise."""
    model = CACHE / f"demo-{name}-model"
    if not model.exists():
        shutil.copytree(WEIGHTS / "model", model)
        (path,) = (model / "unet").glob("*.safetensors")
        tensors = load_file(path)
        tensors["conv_out.weight"] = tensors["conv_out.weight"] * factor
        save_file(tensors, path, metadata={"format": "pt"})
    out = CACHE / f"demo-{name}-triton"
    profile = Profile.parse("256x256", max_batch=4)
    request = BuildRequest(
        model=str(model),
        controlnet=str(WEIGHTS / "controlnet"),
        out=out,
        backend="triton",
        precision="fp16",
        profiles=(profile,),
    )
    build_set(request)
    return out


@pytest.fixture(scope="module")
def sets() -> Iterator[dict[str, EngineSet]]:
    folders = [built("plain", 1.0), built("dark", 0.7)]
    opened = [load_engine_set(folder, device="cuda") for folder in folders]
    yield {one.digest: one for one in opened}
    for one in opened:
        one.close()


def drawn(loop: RenderLoop, specs: list[ImageSpec]) -> list[np.ndarray]:
    futures = [loop.submit(spec) for spec in specs]
    while not all(future.done() for future in futures):
        loop.step()
    return [future.result(60) for future in futures]


def of_set(digest: str, number: int) -> ImageSpec:
    spec = sample(number)
    return ImageSpec(**(vars(spec) | {"engine_set": digest}))


@pytest.mark.parametrize("limit", [None, 1])
def test_two_sets_with_graphs_in_one_pool_draw_what_each_draws_alone(
    sets: dict[str, EngineSet], limit: int | None
) -> None:
    first, second = sets
    wanted = [of_set(digest, number) for number in range(4) for digest in sets]
    alone: dict[str, list[np.ndarray]] = {}
    for digest, one in sets.items():
        own = [spec for spec in wanted if spec.engine_set == digest]
        alone[digest] = drawn(RenderLoop(EngineDenoiser(one)), own)
    shared = SharedDevice(torch.device("cuda", torch.cuda.current_device()))
    denoisers = Denoisers({digest: EngineDenoiser(one, shared=shared, lazy=True) for digest, one in sets.items()})
    loop = RenderLoop(denoisers, residency=Residency(limit=limit, reload_seconds=denoisers.reload_seconds))
    for _ in range(2):  # the second time with the graphs of the first, or with those captured anew
        pictures = drawn(loop, wanted)
        for digest in (first, second):
            together = [picture for spec, picture in zip(wanted, pictures, strict=True) if spec.engine_set == digest]
            assert min(psnr(one, other) for one, other in zip(alone[digest], together, strict=True)) >= 50
    assert all(psnr(one, other) < 40 for one, other in zip(alone[first], alone[second], strict=True))
    assert len(loop.loads().loaded) == (limit or 2)


def test_making_room_for_one_set_frees_the_memory_of_all_graphs(sets: dict[str, EngineSet]) -> None:
    """What is freed is given back to the device: torch has less of it."""

    def reserved() -> int:
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.memory_reserved()

    shared = SharedDevice(torch.device("cuda", torch.cuda.current_device()))
    denoisers = Denoisers({digest: EngineDenoiser(one, shared=shared) for digest, one in sets.items()}, loaded=sets)
    loop = RenderLoop(denoisers)
    wanted = [of_set(digest, number) for number in range(4) for digest in sets]
    drawn(loop, wanted)
    assert denoisers.drop_graphs()
    without = reserved()  # with all that libraries keep after a first run
    drawn(loop, wanted)
    full = reserved()
    assert full > without
    assert loop._graphs.make_room(wanted[0].bucket_key)
    assert torch.cuda.memory_reserved() - without < (full - without) / 2
    assert not denoisers.drop_graphs()


def test_kernels_of_both_sets_are_where_triton_looks(sets: dict[str, EngineSet]) -> None:
    folder = Path(os.environ[KERNELS])
    before = {path.name for path in folder.iterdir()}
    for digest, one in sets.items():
        drawn(RenderLoop(EngineDenoiser(one)), [of_set(digest, 1)])
    assert {path.name for path in folder.iterdir()} == before  # nothing was compiled
