"""A set is loaded as its manifest says, or refused with a sentence that says what differs."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engines import fit
from engines.engine_set import load_engine_set
from engines.errors import BackendUnavailable, EngineSetRefused
from engines.file_check import check_files
from engines.manifest import MANIFEST, Manifest, load_manifest
from tests.engines.sets import copy_of_set, edit_manifest
from tests.models import tiny_engine_set

UNET = "weights/unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def spoilt(tmp_path: Path) -> Path:
    """A copy of a good torch set, to be spoilt."""
    return copy_of_set(tmp_path)


def refusal(folder: Path, **options: Any) -> str:
    with pytest.raises(EngineSetRefused) as caught:
        load_engine_set(folder, device="cpu", **options)
    return str(caught.value)


def test_a_manifest_lists_every_file_of_its_set_and_nothing_else() -> None:
    for backend in ("torch", "onnxruntime"):
        folder = tiny_engine_set(backend)
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == {*load_manifest(folder).files, MANIFEST}


def test_a_manifest_reads_back_as_written() -> None:
    manifest = load_manifest(tiny_engine_set())
    assert Manifest.model_validate_json(manifest.model_dump_json()) == manifest


def test_a_changed_byte_is_refused(spoilt: Path) -> None:
    content = bytearray((spoilt / UNET).read_bytes())
    content[-1] ^= 1
    (spoilt / UNET).write_bytes(content)
    assert re.search(
        r"model.safetensors was changed after it was built: its SHA-256 is \w{12}..., the manifest says",
        refusal(spoilt),
    )


def test_a_missing_file_is_refused(spoilt: Path) -> None:
    (spoilt / UNET).unlink()
    assert refusal(spoilt) == f"{spoilt / UNET} is missing: the manifest lists it"


def test_a_missing_tokenizer_is_refused(spoilt: Path) -> None:
    (spoilt / "tokenizer.json").unlink()
    assert "tokenizer.json is missing" in refusal(spoilt)


def test_other_weights_are_refused(spoilt: Path) -> None:
    built = load_manifest(spoilt).source.weights
    assert load_engine_set(spoilt, weights=built).digest
    assert refusal(spoilt, weights="0" * 64) == (
        f"the set was built from other weights: {built[:12]}..., asked for 000000000000..."
    )


def test_another_version_of_the_backend_is_refused(spoilt: Path) -> None:
    edit_manifest(spoilt, lambda manifest: manifest["versions"].update(torch="1.13.1"))
    here = torch.__version__.split("+")[0]
    assert refusal(spoilt) == f"the set was built for torch 1.13.1, but {here} is installed; build it again"


def test_a_backend_that_is_not_installed_is_named(spoilt: Path) -> None:
    edit_manifest(spoilt, lambda manifest: manifest.update(runtime="tensorrt_99", versions={"tensorrt_99": "99.0"}))
    with pytest.raises(BackendUnavailable, match=r"needs the package tensorrt_99 \(99.0\), which is not installed"):
        load_engine_set(spoilt)


def test_machine_code_of_another_cpu_is_refused(spoilt: Path) -> None:
    edit_manifest(spoilt, lambda manifest: manifest.update(architecture="cpu-neon"))
    assert re.fullmatch(r"the set was built for cpu-neon, this machine's CPU is cpu-\w+", refusal(spoilt))


def test_machine_code_of_another_gpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The question that is put to the GPU is answered here: there is none."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100")
    manifest = load_manifest(tiny_engine_set()).model_copy(update={"architecture": "sm89"})
    with pytest.raises(EngineSetRefused, match=r"built for sm89, this machine's GPU \(NVIDIA A100\) is sm80"):
        fit.check_architecture(manifest, torch.device("cuda"))
    fit.check_architecture(manifest.model_copy(update={"architecture": "sm80"}), torch.device("cuda"))


@pytest.mark.parametrize(
    "name",
    [
        "../outside", "a/../../outside", "/etc/passwd", "..", ".", "", "a//b", "./a", "a/", "a\\..\\b", "a\nb", "a\0b",
        "manifest.json", "manifest.json/a",
    ],
)  # fmt: skip
@pytest.mark.parametrize("stage", ["tokenizer", "weights", "export"])
def test_a_file_outside_the_sets_folder_is_refused_before_it_is_read(spoilt: Path, name: str, stage: str) -> None:
    (spoilt.parent / "outside").write_text("secret")

    def change(manifest: dict[str, Any]) -> None:
        stages = manifest["components"]["unet"]["stages"] | {"tokenizer": manifest["tokenizer"]}
        if stage == "export":  # a stage that no runtime reads, before the last one
            stages["export"] = {"key": "k", "files": {}}
            manifest["components"]["unet"]["stages"] = {"export": stages["export"], "weights": stages["weights"]}
        stages[stage]["files"][name] = "0" * 64

    edit_manifest(spoilt, change)
    assert f"lists the file {name!r}, which is not the name of a file inside the set's folder" in refusal(spoilt)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda m: m.update(format=2), "has format 2, this version reads 1: load it with the version that built it"),
        (lambda m: m.update(format=0), "has format 0, this version reads 1: build the set again"),
        (lambda m: m.update(format="one"), "has format one, this version reads 1"),
        (lambda m: m.pop("format"), "is not an engine set's manifest"),
        (lambda m: m.pop("backend"), "is not valid at backend: Field required"),
        (lambda m: m.update(backend="openvino"), "is not valid at backend: Input should be"),
        (lambda m: m.update(surprise=1), "is not valid at surprise: Extra inputs are not permitted"),
        (lambda m: m["components"].pop("decoder"), "lists no decoder engine: the set is incomplete"),
        (
            lambda m: m["components"]["unet"]["spec"]["inputs"].pop(),
            "the unet engine has other tensors than this version uses; build it again",
        ),
        (lambda m: m["versions"].pop("torch"), "is not valid at versions: it has no version of the runtime, torch"),
    ],
)
def test_a_manifest_that_is_not_this_versions_is_refused(
    spoilt: Path, change: Callable[[dict[str, Any]], object], sentence: str
) -> None:
    edit_manifest(spoilt, change)
    assert f"{spoilt / MANIFEST}" in refusal(spoilt)
    assert sentence in refusal(spoilt)


@pytest.mark.parametrize("text", ["", "not json", "[]", "null", json.dumps("format")])
def test_a_file_that_is_no_manifest_is_refused(spoilt: Path, text: str) -> None:
    (spoilt / MANIFEST).write_text(text)
    assert "is not an engine set's manifest" in refusal(spoilt)


def test_a_folder_without_a_manifest_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is not a finished engine set: it has no manifest.json"
    monkeypatch.chdir(tmp_path)  # a relative folder is looked for where the process was started
    assert refusal(Path("at/home")) == f"at/home is not a finished engine set: there is no folder {tmp_path}/at/home"


def test_a_manifest_that_cannot_be_read_is_refused(spoilt: Path) -> None:
    (spoilt / MANIFEST).unlink()
    (spoilt / MANIFEST).mkdir()
    assert "cannot be read: Is a directory" in refusal(spoilt)


@pytest.mark.parametrize(
    ("backend", "device", "sentence"),
    [
        ("onnxruntime", "cuda", "an onnxruntime set runs on the CPU"),
        ("torch", "cuda", "torch sets on cuda need an NVIDIA GPU, and torch sees none here"),
        ("torch", "gpu", "unknown device 'gpu'; use auto, cpu or cuda"),
    ],
)
def test_a_device_that_a_set_cannot_use_is_named(
    backend: Any, device: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendUnavailable, match=sentence):
        load_engine_set(tiny_engine_set(backend), device=device)


def test_the_digest_names_the_contents_not_the_place(spoilt: Path) -> None:
    original = load_manifest(spoilt)
    edit_manifest(spoilt, lambda manifest: manifest["source"].update(model="/another/place"))
    assert load_manifest(spoilt).digest == original.digest
    edit_manifest(spoilt, lambda manifest: manifest["versions"].update(diffusers="0.0.1"))
    assert load_manifest(spoilt).digest != original.digest


def test_an_onnx_file_with_other_tensors_is_refused_even_with_its_right_hash(tmp_path: Path) -> None:
    folder = copy_of_set(tmp_path, "onnxruntime")

    def swap(manifest: dict[str, Any]) -> None:
        components = manifest["components"]
        components["hint"]["stages"] = components["decoder"]["stages"]

    edit_manifest(folder, swap)
    with load_engine_set(folder) as engines:
        with pytest.raises(EngineSetRefused, match=r"decoder.onnx has the tensors .* the spec says \[\('hint'"):
            engines.load(["hint"])


@pytest.mark.parametrize(("precision", "calibrated"), [("fp8", False), ("fp16", True)])
def test_what_a_set_says_of_its_precision_agrees(precision: str, calibrated: bool, spoilt: Path) -> None:
    """Its pictures say whether they are fp8 by the one, and `verify` counts what is clipped by the other."""
    made = {"source": "built-in", "digest": "ab" * 32, "input_scales": {}}
    added = {"calibration": made} if calibrated else {}
    edit_manifest(spoilt, lambda manifest: manifest.update(precision=precision, **added))
    assert f"is not valid at calibration: a set of precision {precision} has" in refusal(spoilt)


@pytest.mark.parametrize("denied", ["is_file", "open"])
def test_a_file_of_a_set_that_may_not_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, denied: str
) -> None:
    path = tmp_path / "unet.plan"
    path.write_bytes(b"plan")
    real = getattr(Path, denied)

    def refused(self: Path, *arguments: object, **options: object) -> object:
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return real(self, *arguments, **options)

    monkeypatch.setattr(Path, denied, refused)
    with pytest.raises(EngineSetRefused, match=f"{path} cannot be read: Permission denied"):
        check_files(tmp_path, {"unet.plan": "0" * 64})
