"""The comparison with torch in float32: what passes, what does not, and what it is compared with."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from engines.build.builder import build_set
from engines.check.verify import LADDER, Finding, likely_inputs, sizes, tightest, verify
from engines.errors import EngineSetRefused, ModelRefused
from engines.manifest import load_manifest
from engines.model.locate import find_weights
from engines.spec import COMPONENTS, Geometry, Profile, component_specs
from tests.engines.sets import copy_of_model, copy_of_set, request_for, spoil, train_a_little
from tests.models import tiny_model


def small_set(folder: Path) -> Path:
    """The tiny onnxruntime set for one small size: the exports serve any."""
    out = copy_of_set(folder, "onnxruntime")
    build_set(request_for(tiny_model(), out, shape="64x64", backend="onnxruntime"))
    return out


def test_the_ladder_is_the_published_one() -> None:
    assert LADDER == ((1e-3, 1e-5), (1e-3, 1e-4), (1e-2, 1e-3))


@pytest.mark.parametrize(
    ("value", "error", "expected"),
    [
        (0.0, 0.9e-5, (1e-3, 1e-5)),
        (0.0, 1.1e-5, (1e-3, 1e-4)),
        (0.0, 1.1e-4, (1e-2, 1e-3)),
        (0.0, 1.1e-3, (None, None)),
        (1.0, 0.9e-3, (1e-3, 1e-5)),
        (1.0, 1.05e-3, (1e-3, 1e-4)),
        (1.0, 1.05e-2, (1e-2, 1e-3)),
        (1.0, 1.2e-2, (None, None)),
        (1.0, float("nan"), (None, None)),
        (1.0, float("inf"), (None, None)),
    ],
)
def test_the_tightest_pair_that_holds_for_every_element(value: float, error: float, expected: object) -> None:
    reference = torch.full((2, 3), value)
    found = reference.clone()
    found[1, 2] += error
    assert tightest([(reference, reference), (found, reference)]) == expected


def test_half_precision_may_be_judged_by_its_largest_error_but_never_nan() -> None:
    assert not Finding("unet", 1, 64, 64, 0.1, 0.009, None, None).ok
    assert Finding("unet", 1, 64, 64, 0.1, 0.009, None, None, within=0.01).ok
    assert not Finding("unet", 1, 64, 64, 0.1, 0.011, None, None, within=0.01).ok
    assert not Finding("unet", 1, 64, 64, 0.1, float("nan"), None, None, within=0.01).ok


def test_every_component_of_a_good_set_holds_at_every_size(tmp_path: Path) -> None:
    out = copy_of_set(tmp_path, "onnxruntime")
    build_set(request_for(tiny_model(), out, shape="64x64:64x128", backend="onnxruntime"))
    findings = list(verify(out))
    assert [(f.component, f.batch, f.height, f.width) for f in findings] == [
        (name, batch, 64, width) for name in COMPONENTS for batch, width in ((2, 64), (1, 128))
    ]
    for finding in findings:
        assert finding.ok, finding
        assert (finding.rtol, finding.atol) in LADDER
        assert 0 < finding.absolute_error < 1e-3
        assert finding.relative_error < 1e-3


@pytest.mark.parametrize("component", ["clip", "hint", "decoder"])
def test_a_component_that_computes_something_else_is_found_and_the_others_hold(tmp_path: Path, component: str) -> None:
    out = small_set(tmp_path)
    spoil(out, component, 2.0)
    failed = {finding.component for finding in verify(out) if not finding.ok}
    assert failed == {component}


def test_a_component_that_gives_nan_is_found(tmp_path: Path) -> None:
    out = small_set(tmp_path)
    spoil(out, "controlnet", float("nan"))
    failed = [finding for finding in verify(out, within=1e9) if not finding.ok]
    assert {finding.component for finding in failed} == {"controlnet"}
    assert all(math.isnan(finding.absolute_error) and math.isnan(finding.relative_error) for finding in failed)
    json.dumps([finding.to_json() for finding in failed], allow_nan=False)
    assert {finding.to_json()["norm_error"] for finding in failed} == {None}


def test_weights_other_than_those_of_the_set_are_refused(tmp_path: Path) -> None:
    weights = copy_of_model(tmp_path)
    train_a_little(weights / "model" / "unet")
    other = find_weights(str(weights / "model"), str(weights / "controlnet"))
    with pytest.raises(EngineSetRefused, match="the set was built from other weights"):
        next(verify(small_set(tmp_path), other))


def test_weights_that_moved_are_missed_and_may_be_named(tmp_path: Path) -> None:
    weights = copy_of_model(tmp_path)
    out = tmp_path / "set"
    build_set(request_for(weights, out, shape="64x64"))
    moved = weights.rename(tmp_path / "moved")
    missed = r"not where they were when the set was built \(.*/model is neither a folder, .*name them as for engines"
    with pytest.raises(ModelRefused, match=missed):
        next(verify(out))
    named = find_weights(str(moved / "model"), str(moved / "controlnet"))
    assert all(finding.ok and finding.absolute_error == 0 for finding in verify(out, named))


def test_sizes_are_a_full_batch_of_the_smallest_and_one_of_the_largest(tmp_path: Path) -> None:
    manifest = load_manifest(small_set(tmp_path))
    profiles = (Profile.parse("64x64:128x192", max_batch=3), Profile.parse("64x128", max_batch=3))
    found = sizes(manifest.model_copy(update={"profiles": profiles}))
    assert found == [(3, 64, 64), (1, 128, 192), (3, 64, 128), (1, 64, 128)]


def test_inputs_are_of_the_kind_that_a_render_feeds() -> None:
    specs = component_specs(Geometry())
    fed = {name: likely_inputs(specs[name], 2, height=64, width=128) for name in COMPONENTS}
    assert set(fed["hint"]["hint"].unique().tolist()) == {0.0, 1.0}
    assert fed["clip"]["input_ids"].dtype == torch.int64
    times = fed["unet"]["timestep"]
    assert times.shape == (4,)
    assert bool((times == times.round()).all() and (times < 1000).all())
    for name in COMPONENTS:
        for tensor in specs[name].inputs:
            assert fed[name][tensor.name].shape == tensor.sized(2, height=64, width=128)
            again = likely_inputs(specs[name], 2, height=64, width=128)
            assert torch.equal(fed[name][tensor.name], again[tensor.name])
