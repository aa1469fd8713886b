"""A triton set with a LoRA takes every kernel from the set without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engines.build.builder import Step, build_set
from engines.check.verify import verify
from engines.manifest import load_manifest
from engines.model.locate import find_weights
from engines.model.networks import load_network
from engines.source import AdditionNames
from engines.spec import COMPONENTS
from tests.engines.model.loras import UNET, kohya, random_pairs, save
from tests.gpu.test_triton_sets import WEIGHTS, request_for

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no NVIDIA GPU here"),
]


def test_another_lora_compiles_nothing(tmp_path: Path) -> None:
    build_set(request_for(tmp_path / "plain", "triton", "fp16"))
    weights = find_weights(str(WEIGHTS / "model"), str(WEIGHTS / "controlnet"))
    pairs = random_pairs({"unet": load_network("unet", weights, torch.float32)}, {"unet": UNET}, strength=0.1)
    lora = save(kohya(pairs), tmp_path / "style.safetensors")
    steps: list[Step] = []
    request = request_for(tmp_path / "styled", "triton", "fp16")
    build_set(
        replace(request, additions=AdditionNames(loras=(f"{lora}:0.5",)), reuse=(tmp_path / "plain",)), steps.append
    )
    made = {(step.component, step.stage): step.state for step in steps if step.state != "start"}
    assert {name for name in COMPONENTS if made[name, "kernels"] != "reused"} == set()
    assert {name for name in COMPONENTS if made[name, "constants"] == "done"} == {"clip", "unet"}
    assert load_manifest(tmp_path / "styled").digest != load_manifest(tmp_path / "plain").digest
    assert all(finding.ok for finding in verify(tmp_path / "styled", within=0.02))
