"""What loading asks of a manifest before it reads a file: the same answers for a set that is elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engines.backends import registry
from engines.backends.torch import backend as torch_backend
from engines.device import Placement
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.fit import placement_for
from engines.manifest import Manifest, load_manifest
from tests.engines.stored import toy_set

FOLDER = Path("a-set")  # only named


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return load_manifest(toy_set(tmp_path / "set"))


def test_a_set_for_this_machine_gets_its_device(manifest: Manifest) -> None:
    assert placement_for(FOLDER, manifest, threads=2) == Placement(torch.device("cpu"), 2)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (lambda m: {"backend": "openvino"}, EngineSetRefused, "a-set/manifest.json is not valid at backend"),
        (lambda m: {"versions": m.versions | {"onnxruntime": "0.1"}}, EngineSetRefused, "for onnxruntime 0.1, but"),
        (lambda m: {"architecture": "cpu-neon"}, EngineSetRefused, "built for cpu-neon, this machine's CPU is cpu-"),
        (lambda m: {"runtime": "onyx", "versions": {"onyx": "1"}}, BackendUnavailable, r"needs the package onyx \(1\)"),
        (
            lambda m: {"backend": "inductor", "runtime": "torch", "architecture": "sm89"},
            BackendUnavailable,
            "need an NVIDIA GPU",
        ),
    ],
)  # fmt: skip
def test_a_set_for_another_machine_is_refused(
    manifest: Manifest, change: Callable[[Manifest], dict[str, object]], error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        placement_for(FOLDER, manifest.model_copy(update=change(manifest)))


def test_a_torch_set_needs_the_packages_of_its_networks(manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_backend, "installed_version", lambda name: None if name == "diffusers" else "1")
    torch_set = manifest.model_copy(update={"backend": "torch", "runtime": "torch"})
    with pytest.raises(BackendUnavailable, match="a torch set needs the package diffusers, which is not installed"):
        placement_for(FOLDER, torch_set)


def test_a_manifest_cannot_have_any_module_imported(manifest: Manifest) -> None:
    odd = manifest.model_copy(update={"backend": "tensorrt", "runtime": "antigravity"})
    with pytest.raises(EngineSetRefused, match="'antigravity' is not a TensorRT package"):
        registry.choose("tensorrt").check(FOLDER, odd, Placement(torch.device("cuda"), None))
