"""Which set a machine takes: the rules of loading, applied to a manifest whose files are elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from engines.backends.triton.backend import TritonBackend
from engines.manifest import MANIFEST, load_manifest
from tests.engines.conftest import Ended
from tests.engines.sets import edit_manifest
from tests.engines.stored import digest_of, place_of, toy_set

GPU_SET: dict[str, Any] = {"architecture": "sm89", "backend": "inductor", "runtime": "torch"}


def pushed(engines: Callable[..., Ended], folder: Path, **options: Any) -> str:
    """A toy set, pushed to `root` beside it; its digest."""
    toy_set(folder, content=folder.name, **options)
    assert engines("push", folder, folder.parent / "root").code == 0
    return digest_of(folder)


def test_the_set_that_was_built_last_is_taken(engines: Callable[..., Ended], tmp_path: Path) -> None:
    digests = {
        name: pushed(engines, tmp_path / name, built_at=built_at)
        for name, built_at in (("older", 1e9), ("last", 1.7e9), ("first", 9e8))
    }
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert json.loads(ended.out)["engine_set"] == digests["last"]
    listed = json.loads(engines("list", tmp_path / "root").out)["sets"]
    assert [each["engine_set"] for each in listed] == [digests[name] for name in ("last", "older", "first")]


def test_a_newer_set_that_does_not_fit_is_passed_over(engines: Callable[..., Ended], tmp_path: Path) -> None:
    fits = pushed(engines, tmp_path / "fits", built_at=1e9)
    pushed(engines, tmp_path / "gpu", change=lambda manifest: manifest.update(GPU_SET))
    pushed(engines, tmp_path / "other", change=lambda manifest: manifest["versions"].update(onnxruntime="0.1"))
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert json.loads(ended.out)["engine_set"] == fits


def test_a_machine_with_a_gpu_takes_the_older_set_for_it(
    engines: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The questions that are put to the GPU are answered here: there is none."""
    gpu = pushed(engines, tmp_path / "gpu", built_at=1e9, change=lambda manifest: manifest.update(GPU_SET))
    cpu = pushed(engines, tmp_path / "cpu")
    assert json.loads(engines("pull", tmp_path / "root", "--into", tmp_path / "sets").out)["engine_set"] == cpu
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (8, 9))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA L4")
    assert json.loads(engines("pull", tmp_path / "root", "--into", tmp_path / "sets").out)["engine_set"] == gpu
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: (9, 0))
    (no,) = [each for each in json.loads(engines("list", tmp_path / "root").out)["sets"] if not each["fits"]]
    assert no["why_not"] == "the set was built for sm89, this machine's GPU (NVIDIA L4) is sm90"


def test_pins_name_one_set_for_each_architecture(engines: Callable[..., Ended], tmp_path: Path) -> None:
    here = pushed(engines, tmp_path / "here", built_at=1e9)
    pushed(engines, tmp_path / "newer")
    gpu = pushed(engines, tmp_path / "gpu", change=lambda manifest: manifest.update(GPU_SET))
    for pins in (["--digest", here[:8], "--digest", gpu[:8]], ["--digest", f"{gpu}, {here}"], ["--digest", here]):
        ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets", *pins)
        assert (ended.code, json.loads(ended.out)["engine_set"]) == (0, here)
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets", "--digest", "")
    assert json.loads(ended.out)["engine_set"] not in (here, gpu)


def test_a_pin_that_nothing_has_ends_with_8_and_what_there_is(engines: Callable[..., Ended], tmp_path: Path) -> None:
    digest = pushed(engines, tmp_path / "set")
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets", "--digest", "0" * 12)
    assert (ended.code, ended.out) == (8, "")
    assert f"no engine set in {tmp_path / 'root'} has a digest that begins with {'0' * 12}; it holds:" in ended.err
    assert f"{digest[:12]} (onnxruntime, any machine)" in ended.err
    assert not (tmp_path / "sets").exists()


def test_none_that_fits_ends_with_8_with_each_reason_and_the_commands_to_run(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    changes: dict[str, Callable[[dict[str, Any]], object]] = {
        "version": lambda manifest: manifest["versions"].update(onnxruntime="0.1"),
        "gpu": lambda manifest: manifest.update(GPU_SET),
        "cpu": lambda manifest: manifest.update(GPU_SET | {"architecture": "cpu-neon"}),
        "package": lambda manifest: manifest.update(runtime="onyx", versions={"onyx": "1.0"}),
    }
    digests = {name: pushed(engines, tmp_path / name, change=change) for name, change in changes.items()}
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert (ended.code, ended.out) == (8, "")
    assert ended.err.startswith(f"error: no engine set in {tmp_path / 'root'} fits this machine:")
    for name, reason in {
        "version": "(onnxruntime, any machine): the set was built for onnxruntime 0.1, but",
        "gpu": "(inductor, sm89): inductor sets on cuda need an NVIDIA GPU",
        "cpu": "(inductor, cpu-neon): the set was built for cpu-neon, this machine's CPU is cpu-",
        "package": "(onnxruntime, any machine): the set needs the package onyx (1.0), which is not installed",
    }.items():
        assert f"{digests[name][:12]} {reason}" in ended.err
    source = load_manifest(tmp_path / "cpu").source
    assert f"build one on this kind of machine: engines build --model {source.model}" in ended.err
    assert f"--out engine-set && engines push engine-set {tmp_path / 'root'}" in ended.err


def test_without_torch_the_package_is_named(
    engines: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in the producer's image, which may list sets all the same."""
    digest = pushed(engines, tmp_path / "set")
    monkeypatch.setitem(sys.modules, "torch", None)
    (listed,) = json.loads(engines("list", tmp_path / "root").out)["sets"]
    assert (listed["engine_set"], listed["why_not"]) == (digest, "the package torch is not installed")
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert ended.code == 8
    assert "the package torch is not installed" in ended.err


def test_a_backend_that_this_version_lacks_is_not_advised(engines: Callable[..., Ended], tmp_path: Path) -> None:
    folder = toy_set(tmp_path / "set")
    assert engines("push", folder, tmp_path / "root").code == 0
    before = place_of(folder, tmp_path / "root")
    edit_manifest(before, lambda manifest: manifest.update(backend="openvino"))
    place = place_of(before, tmp_path / "root")
    place.parent.mkdir(parents=True)
    before.rename(place)
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert ended.code == 8
    assert "(openvino, any machine): " in ended.err
    assert "is not valid at backend: Input should be" in ended.err
    assert "--backend onnxruntime" in ended.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("installed", [None, "3.6.0", "3.7.1"])
def test_a_machine_that_takes_no_fp8_is_not_told_to_calibrate(
    engines: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, installed: str | None
) -> None:
    """Without a GPU, whatever version of Triton torch has brought."""
    monkeypatch.setattr(TritonBackend, "installed_version", lambda self, runtime: installed)
    quantized = {"backend": "triton", "runtime": "triton", "architecture": "sm90", "precision": "fp8"}
    calibration = {"source": "/folder/jobs.csv", "digest": "ab" * 32, "input_scales": {}}

    def change(manifest: dict[str, Any]) -> None:
        manifest.update(quantized, calibration=calibration)
        manifest["versions"]["triton"] = "3.6.0"

    pushed(engines, tmp_path / "set", change=change)
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert ended.code == 8
    assert "--precision fp32 --out engine-set" in ended.err
    assert "--calibrate" not in ended.err


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_root_ends_with_8_and_the_commands_to_run(
    engines: Callable[..., Ended], tmp_path: Path, exists: bool
) -> None:
    root = tmp_path / "root"
    if exists:
        (root / "pictures" / "b").mkdir(parents=True)
        (root / ("a" * 64) / "not" / "a").mkdir(parents=True)
    ended = engines("pull", root, "--into", tmp_path / "sets")
    assert (ended.code, ended.out) == (8, "")
    assert f"there is no engine set in {root}" in ended.err
    assert "engines build --model MODEL --controlnet CONTROLNET --shape 512x512 --out engine-set" in ended.err
    listed = engines("list", root)
    assert (listed.code, json.loads(listed.out)) == (0, {"sets": [], "left_out": []})


def test_a_list_says_what_each_set_is_and_whether_it_fits(engines: Callable[..., Ended], tmp_path: Path) -> None:
    digest = pushed(engines, tmp_path / "set", built_at=1_760_000_000.0)
    pushed(engines, tmp_path / "gpu", built_at=1e9, change=lambda manifest: manifest.update(GPU_SET))
    ended = engines("list", tmp_path / "root")
    manifest = load_manifest(tmp_path / "set")
    fits, no = json.loads(ended.out)["sets"]
    assert fits == {
        "engine_set": digest,
        "uri": place_of(tmp_path / "set", tmp_path / "root").as_uri(),
        "weights": manifest.source.weights,
        "built_with": None,
        "context_chunks": 1,
        "backend": "onnxruntime",
        "version": manifest.versions["onnxruntime"],
        "architecture": None,
        "precision": "fp32",
        "shapes": ["64x64:512x512"],
        "max_batch": 4,
        "bytes": sum((tmp_path / "set" / name).stat().st_size for name in manifest.files),
        "built_at": "2025-10-09T08:53:20+00:00",
        "fits": True,
        "why_not": None,
    }
    assert (no["architecture"], no["fits"]) == ("sm89", False)
    for cell in (digest[:12], f"onnxruntime {fits['version']}", "64x64:512x512", "2025-10-09 08:53", "yes", "sm89"):
        assert cell in ended.err
    assert f"{no['engine_set'][:12]}: {no['why_not']}" in ended.err


def test_a_list_says_what_was_added_to_a_model(engines: Callable[..., Ended], tmp_path: Path) -> None:
    def add(manifest: dict[str, Any]) -> None:
        lora = {"file": "/folder/ink.safetensors", "digest": "ab" * 32, "weight": 0.8}
        manifest["source"] |= {"loras": [lora], "clip_skip": 2}

    digest = pushed(engines, tmp_path / "set", change=add)
    ended = engines("list", tmp_path / "root")
    (listed,) = json.loads(ended.out)["sets"]
    assert listed["built_with"] == {
        "loras": [{"file": "ink.safetensors", "digest": "ab" * 32, "weight": 0.8}],
        "clip_skip": 2,
    }
    assert f"{digest[:12]}: with ink.safetensors:0.8, clip skip 2" in ended.err


def test_a_set_that_is_not_whole_is_listed_apart_and_never_taken(engines: Callable[..., Ended], tmp_path: Path) -> None:
    good = pushed(engines, tmp_path / "good", built_at=1e9)
    spoilt = {name: place_of(tmp_path / name, tmp_path / "root") for name in ("none", "torn", "other", "hole", "newer")
              if pushed(engines, tmp_path / name)}  # fmt: skip
    (spoilt["none"] / MANIFEST).unlink()
    text = (spoilt["torn"] / MANIFEST).read_text()
    (spoilt["torn"] / MANIFEST).write_text(text[: len(text) // 2])
    (spoilt["other"] / MANIFEST).write_bytes((tmp_path / "good" / MANIFEST).read_bytes())
    (spoilt["hole"] / "unet.onnx").unlink()
    (spoilt["newer"] / MANIFEST).write_text(json.dumps({"format": 2}))
    ended = engines("list", tmp_path / "root")
    told = json.loads(ended.out)
    assert [each["engine_set"] for each in told["sets"]] == [good]
    reasons = {each["uri"]: each["why"] for each in told["left_out"]}
    for name, reason in {
        "none": "it has no manifest.json: a push was interrupted; push the set again",
        "torn": "manifest.json is not an engine set's manifest",
        "other": f"manifest.json is the manifest of another set, {good[:12]}...: it was changed",
        "hole": "unet.onnx is missing: the manifest lists it; push the set again",
        "newer": "manifest.json has format 2, this version reads 1",
    }.items():
        assert reason in reasons[spoilt[name].as_uri()]
        assert f"{spoilt[name]} is not a complete set:" in ended.err
    taken = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert json.loads(taken.out)["engine_set"] == good
    (place_of(tmp_path / "good", tmp_path / "root") / MANIFEST).unlink()
    ended = engines("pull", tmp_path / "root", "--into", tmp_path / "sets")
    assert ended.code == 8
    assert "is not a complete set: it has no manifest.json" in ended.err

    for name in spoilt:
        assert engines("push", tmp_path / name, tmp_path / "root").code == 0, "a push mends each"
    assert len(json.loads(engines("list", tmp_path / "root").out)["sets"]) == len(spoilt)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["pull", "ROOT"], "Missing option '--into'"),
        (["pull", "--into", "sets"], "Missing argument 'ROOT'"),
        (["pull", "http://host/sets", "--into", "sets"], "sets cannot be kept in 'http://host/sets'; use a folder"),
        (["push", "set", "ftp://host/sets"], "has the scheme 'ftp'"),
        (["list", "s3:/bucket/sets"], "a URI lacks slashes behind s3:; write 's3://bucket/sets'"),
        (["list", "s3://"], "names no bucket"),
        (["list", ""], "the text is empty"),
        (["pull", "root", "--into", "sets", "--digest", "xyz0"], "'xyz0' is not the beginning of a digest"),
        (["pull", "root", "--into", "sets", "--digest", "abc"], "'abc' is not the beginning of a digest"),
    ],
)
def test_a_wrong_command_line_ends_with_2(
    engines: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], sentence: str
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = engines(*arguments)
    assert (ended.code, ended.out) == (2, "")
    assert sentence in ended.err
    assert list(tmp_path.iterdir()) == []
