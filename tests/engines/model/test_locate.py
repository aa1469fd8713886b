"""Where weights are found, and what their digests cover."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engines.build.builder import build_set
from engines.errors import ModelRefused
from engines.manifest import load_manifest
from engines.model.locate import Weights, find_weights
from tests.engines.model.folders import weights_in
from tests.engines.sets import copy_of_model, request_for


def digest_of(files: dict[str, Path]) -> str:
    """The digest as every version so far computed it."""
    lines = [f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}" for name, path in sorted(files.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def weights_of(folder: Path) -> Weights:
    return find_weights(str(folder / "model"), str(folder / "controlnet"))


def to_variants(folder: Path) -> None:
    """fp16 files alone, as many repositories have them."""
    for network in (*(folder / "model" / part for part in ("unet", "vae", "text_encoder")), folder / "controlnet"):
        path = weights_in(network)
        save_file(
            {name: tensor.half() for name, tensor in load_file(path).items()}, path.with_suffix(".fp16.safetensors")
        )
        path.unlink()


def test_the_digest_is_the_one_of_before(tmp_path: Path) -> None:
    """Sets name their weights by it: another one for the same files would refuse them."""
    folder = copy_of_model(tmp_path)
    (folder / "model" / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"beside the plain one")
    parts = {name: folder / "model" / name for name in ("unet", "vae", "text_encoder", "scheduler")}
    parts["controlnet"] = folder / "controlnet"
    files = {f"{name}/{path.name}": path for name, part in parts.items() for path in part.iterdir()}
    texts = [path for path in (folder / "model" / "tokenizer").iterdir() if path.suffix in (".json", ".txt")]
    files |= {f"tokenizer/{path.name}": path for path in texts}
    assert weights_of(folder).digest == digest_of(files)
    configs = {name: path for name, path in files.items() if path.name == "config.json"}
    assert weights_of(folder).config_digest == digest_of(configs)


def test_a_model_of_variants_alone_is_built_and_its_digest_covers_them(tmp_path: Path) -> None:
    folder = copy_of_model(tmp_path)
    to_variants(folder)
    before = weights_of(folder).digest
    build_set(request_for(folder, tmp_path / "set", shape="64x64"))
    assert load_manifest(tmp_path / "set").source.weights == before
    path = weights_in(folder / "model" / "vae")
    tensors = load_file(path)
    save_file(tensors | {"decoder.conv_out.bias": tensors["decoder.conv_out.bias"] + 1}, path)
    assert weights_of(folder).digest != before


def test_compiled_code_is_for_the_hint_that_a_controlnets_file_has(tmp_path: Path) -> None:
    """Of a file with diffusers' names no configuration says the hint's widths: the file itself counts."""
    folder = copy_of_model(tmp_path)
    tensors = load_file(weights_in(folder / "controlnet"))
    digests = set()
    for name in ("a.safetensors", "b.safetensors", "c.pth"):
        tensors["controlnet_cond_embedding.conv_in.bias"] += 1
        control = tmp_path / name
        if name.endswith(".pth"):
            torch.save(tensors, control)
        else:
            save_file(tensors, control)
        digests.add(find_weights(str(folder / "model"), str(control)).config_digest)
    assert len(digests) == 3
    for name in ("d.safetensors", "e.safetensors"):  # the original layout has one hint
        tensors["controlnet_cond_embedding.conv_in.bias"] += 1
        save_file({"control_model.input_hint_block.0.bias": tensors["conv_in.bias"] + len(digests)}, tmp_path / name)
        digests.add(find_weights(str(folder / "model"), str(tmp_path / name)).config_digest)
    assert len(digests) == 4


def test_a_folder_with_a_single_file_in_it_says_that_the_file_may_be_named(tmp_path: Path) -> None:
    (tmp_path / "v1-5.ckpt").write_bytes(b"")
    with pytest.raises(ModelRefused, match=r"it has no unet, .*; it holds v1-5.ckpt, which may be named itself"):
        find_weights(str(tmp_path), None)


def test_the_folder_of_one_network_is_no_model(tmp_path: Path) -> None:
    folder = copy_of_model(tmp_path)
    for network in (folder / "model" / "unet", folder / "controlnet"):
        with pytest.raises(
            ModelRefused, match=r"it has no unet, .*; it is the folder of one network: name that of the"
        ):
            find_weights(str(network))


def test_a_model_in_the_hubs_cache_is_read_without_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = copy_of_model(tmp_path)
    cached = tmp_path / "hub" / "models--somebody--tiny"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text("0" * 40)
    snapshot = cached / "snapshots" / ("0" * 40)
    shutil.copytree(folder / "model", snapshot)
    (snapshot / "model_index.json").write_text(json.dumps({}))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    found = find_weights("somebody/tiny", str(folder / "controlnet"))
    assert found.model.resolve() == snapshot.resolve()
    assert found.digest == weights_of(folder).digest
    with pytest.raises(ModelRefused, match="somebody/else is not a folder here, and the hub did not give it: "):
        find_weights("somebody/else", str(folder / "controlnet"))
