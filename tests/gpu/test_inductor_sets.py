"""An inductor set from build to picture, on the demo model. python -m pytest -m gpu tests/gpu/test_inductor_sets.py"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines.build.builder import build_set
from engines.check.score import psnr
from engines.check.verify import verify
from engines.engine_set import load_engine_set
from engines.spec import Profile
from tests.gpu.test_triton_sets import drawn, request_for, sample
from tests.models import CACHE
from worker.render.denoiser import EngineDenoiser

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),  # the build takes two minutes
    # torch's compiler warns of torch's own modules, which it imports when it first needs them.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]


@pytest.fixture(scope="module")
def folder() -> Path:
    out = CACHE / "demo-inductor"
    build_set(replace(request_for(out, "inductor", "fp16"), profiles=(Profile.parse("256x256", max_batch=2),)))
    return out


def test_every_component_is_within_a_hundredth_of_float32(folder: Path) -> None:
    for finding in verify(folder, within=1e-2):
        assert finding.ok, finding


def test_prompts_of_two_chunks_are_within_a_hundredth_of_float32() -> None:
    out = CACHE / "demo-inductor-2-chunks"
    profile = Profile.parse("256x256", max_batch=1, context_chunks=2)
    build_set(replace(request_for(out, "inductor", "fp16"), profiles=(profile,)))
    findings = list(verify(out, within=1e-2))
    assert all(finding.ok for finding in findings), findings
    assert {one.component for one in findings if one.context_chunks == 2} == {"controlnet", "unet"}


def test_pictures_are_those_of_the_triton_set(folder: Path) -> None:
    """Three samples: a batch of two and a batch of one, each captured as a graph."""
    requests = [sample(seed) for seed in range(3)]
    triton = CACHE / "demo-triton"
    build_set(request_for(triton, "triton", "fp16"))
    with load_engine_set(triton, device="cuda") as other:
        expected = drawn(EngineDenoiser(other), requests)
    with load_engine_set(folder, device="cuda") as engines:
        found = drawn(EngineDenoiser(engines), requests)
    assert min(psnr(one, two) for one, two in zip(found, expected, strict=True)) >= 35
