"""Builds with --precision fp8 where they are refused, and manifests of quantized sets."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from engines.build.builder import build_set
from engines.errors import BackendUnavailable
from engines.manifest import Calibration, Manifest, load_manifest, parse_manifest
from tests.engines.sets import request_for
from tests.models import tiny_engine_set, tiny_model

SCALES = {"controlnet": {"network.mid_block.resnets.0.conv1": 0.5}, "unet": {}}


def quantized(source: str = "built-in") -> Manifest:
    calibration = Calibration(source=source, digest="d" * 64, input_scales=SCALES)
    fields = {"backend": "triton", "precision": "fp8", "calibration": calibration}
    return load_manifest(tiny_engine_set()).model_copy(update=fields)


@pytest.mark.parametrize("backend", ["onnxruntime", "torch", "inductor"])
def test_other_backends_name_the_one_that_quantizes(backend: str, tmp_path: Path) -> None:
    request = replace(request_for(tiny_model(), tmp_path / "set", backend=backend), precision="fp8")
    with pytest.raises(
        BackendUnavailable, match=f"--precision fp8 is for --backend triton; {backend} has no quantized layers"
    ):
        build_set(request)
    assert list(tmp_path.iterdir()) == []


def test_a_calibration_without_quantization_is_refused(tmp_path: Path) -> None:
    request = replace(request_for(tiny_model(), tmp_path / "set"), calibrate=tmp_path / "jobs.csv")
    with pytest.raises(BackendUnavailable, match="--calibrate is for --precision fp8; other sets need no calibration"):
        build_set(request)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_has_the_scales_and_reads_them_back() -> None:
    manifest = quantized()
    again = parse_manifest(manifest.model_dump_json().encode(), "manifest.json")
    assert again.calibration == manifest.calibration
    assert again.digest == manifest.digest
    assert manifest.built_with == {"precision": "fp8"}


def test_a_manifest_without_calibration_is_written_as_before() -> None:
    manifest = load_manifest(tiny_engine_set())
    assert "calibration" not in manifest.model_dump()
    assert manifest.built_with is None


def test_the_command_that_builds_a_set_again_names_its_calibration() -> None:
    words = shlex.split(quantized("my jobs.csv").build_command(Path("out")))
    assert words[words.index("--calibrate") + 1] == "my jobs.csv"
    assert words[words.index("--precision") + 1] == "fp8"
    assert "--calibrate" not in shlex.split(quantized().build_command(Path("out")))
