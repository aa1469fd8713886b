"""Original single-file checkpoints, with and without their .yaml, as .safetensors and as pickles."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from engines.build.builder import BuildRequest, build_set
from engines.check.verify import verify
from engines.errors import ModelRefused
from engines.manifest import load_manifest
from engines.model.checkpoint import MAKERS, SD15, read_config
from engines.model.locate import Weights, find_weights
from engines.model.networks import geometry_of, load_network, load_networks
from engines.model.tensor_files import read_tensors
from engines.model.tokenizer import SpecialTokens
from engines.spec import Profile
from tests.engines.model.test_networks import on_paper
from tests.engines.original import CONFIG, PREFIX, Original, original_state, save
from tests.engines.sets import request_for

PARTS = ("text_encoder", "unet", "vae", "controlnet")


@pytest.fixture(scope="module")
def combined(original: Original) -> Path:
    """Everything in one file, as control_sd15_canny.pth has it."""
    return save(original.tensors, original.model.parent / "control_tiny.pth")


def weights_of(original: Original, model: Path, controlnet: Path | None = None) -> Weights:
    return find_weights(
        str(model),
        None if controlnet is None else str(controlnet),
        tokenizer=str(original.tokenizer),
        original_config=str(original.config),
    )


def only(original: Original, *parts: str) -> dict[str, torch.Tensor]:
    prefixes = tuple(PREFIX[part] for part in parts)
    return {name: tensor for name, tensor in original.tensors.items() if name.startswith(prefixes)}


def assert_same_networks(found: Weights, original: Original) -> None:
    expected = find_weights(str(original.model), str(original.controlnet))
    for part in PARTS:
        mine, theirs = (load_network(part, weights, torch.float32) for weights in (found, expected))
        states = mine.state_dict(), theirs.state_dict()
        assert list(states[0]) == list(states[1])
        for name, tensor in states[1].items():
            assert torch.equal(states[0][name], tensor), f"{part}: {name}"


def test_a_combined_checkpoint_gives_the_networks_of_the_folder(original: Original, combined: Path) -> None:
    assert_same_networks(weights_of(original, combined), original)


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt", ".pt"])
def test_a_model_and_a_controlnet_may_be_files_of_their_own(original: Original, tmp_path: Path, suffix: str) -> None:
    model = save(only(original, "unet", "vae", "text_encoder"), tmp_path / f"v1-5-pruned{suffix}")
    control = save(only(original, "controlnet"), tmp_path / f"control_canny{suffix}")
    assert_same_networks(weights_of(original, model, control), original)


def test_a_folder_and_a_file_may_be_mixed(original: Original, combined: Path) -> None:
    assert_same_networks(weights_of(original, combined, original.controlnet), original)
    assert_same_networks(weights_of(original, original.model, combined), original)


def test_a_controlnet_without_a_prefix_is_read(original: Original, tmp_path: Path) -> None:
    tensors = {name.removeprefix(PREFIX["controlnet"]): t for name, t in only(original, "controlnet").items()}
    assert_same_networks(weights_of(original, original.model, save(tensors, tmp_path / "c.safetensors")), original)


def test_half_precision_files_are_read_in_the_precision_asked_for(original: Original, tmp_path: Path) -> None:
    halves = {name: t.half() if t.is_floating_point() else t for name, t in original.tensors.items()}
    weights = weights_of(original, save(halves, tmp_path / "half.safetensors"))
    for dtype in (torch.float16, torch.float32):
        unet = load_network("unet", weights, dtype)
        assert {parameter.dtype for parameter in unet.parameters()} == {dtype}
        assert not any(parameter.requires_grad for parameter in unet.parameters())


def test_a_set_of_a_single_file_is_built_and_equals_that_of_the_folder(
    original: Original, combined: Path, tmp_path: Path
) -> None:
    """The whole way: what the file gives is verified against the folder's networks."""
    request = BuildRequest(
        model=str(combined),
        controlnet=None,
        out=tmp_path / "set",
        backend="torch",
        precision="fp32",
        profiles=(Profile.parse("64x64", max_batch=1),),
        tokenizer=str(original.tokenizer),
        original_config=str(original.config),
    )
    build_set(request)
    manifest = load_manifest(tmp_path / "set")
    assert (manifest.source.model, manifest.source.tokenizer) == (str(combined), str(original.tokenizer))
    # The same numbers through the same kernels; with other alignments in memory those may round otherwise.
    assert all(finding.absolute_error < 1e-6 for finding in verify(tmp_path / "set"))

    build_set(request_for(original.model.parent, tmp_path / "other", shape="64x64"))
    other = load_manifest(tmp_path / "other")
    assert manifest.geometry == other.geometry
    for name, component in manifest.components.items():
        shas = [
            {n: s for n, s in c.files.items() if n.endswith(".safetensors")}
            for c in (component, other.components[name])
        ]
        assert shas[0] == shas[1]


def test_other_files_have_other_digests(original: Original, combined: Path, tmp_path: Path) -> None:
    digest = weights_of(original, combined).digest
    assert weights_of(original, save(original.tensors, tmp_path / "same.safetensors")).digest != digest
    assert find_weights(str(combined), tokenizer=str(original.tokenizer)).digest != digest
    moved = combined.rename(tmp_path / "moved.pth")
    assert weights_of(original, moved).digest == digest
    moved.rename(combined)


def test_without_a_yaml_the_sizes_are_sd15s(original: Original, combined: Path) -> None:
    weights = find_weights(str(combined), tokenizer=str(original.tokenizer))
    with pytest.raises(ModelRefused, match=r"has a unet of other sizes: \S+ is \(.*\), not .*: --original-config"):
        load_network("unet", weights, torch.float32)


@pytest.mark.parametrize("part", PARTS)
def test_every_tensor_of_a_full_size_sd15_has_its_place_without_a_yaml(part: str) -> None:
    """Names and sizes alone: the networks of diffusers' SD1.5, on paper."""
    expected = getattr(on_paper(), part)
    tensors = {PREFIX[part] + name: tensor for name, tensor in original_state(part, expected).items()}
    with torch.device("meta"):
        network, renamed = MAKERS[part](tensors, SD15)
    found, wanted = network.state_dict(), expected.state_dict()
    assert {name: tensor.shape for name, tensor in found.items()} == {name: t.shape for name, t in wanted.items()}
    assert {name: tensor.shape for name, tensor in renamed.items()} == {name: t.shape for name, t in wanted.items()}
    for key in ("attention_head_dim", "cross_attention_dim", "scaling_factor", "hidden_act", "num_attention_heads"):
        assert getattr(network.config, key, None) == getattr(expected.config, key, None), key


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(original: Original, tmp_path: Path, part: str) -> None:
    others = [name for name in PARTS if name != part]
    weights = weights_of(original, save(only(original, *others), tmp_path / "lacking.safetensors"))
    with pytest.raises(ModelRefused, match=rf"lacking.safetensors holds no {part}: it has no tensors named "):
        load_network(part, weights, torch.float32)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_tensor_is_named_and_never_left_random(original: Original, tmp_path: Path, part: str) -> None:
    tensors = dict(original.tensors)
    names = [name for name in tensors if name.startswith(PREFIX[part]) and name.endswith("weight")]
    del tensors[names[-1]]
    weights = weights_of(original, save(tensors, tmp_path / "lacking.safetensors"))
    with pytest.raises(ModelRefused, match=rf"cannot be read as SD1.5's {part}: \S+ is missing"):
        load_network(part, weights, torch.float32)


def test_a_pickle_with_more_than_tensors_is_refused_and_not_run(original: Original, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(tmp_path / "sprung"),))

    torch.save({"state_dict": original.tensors, "callbacks": Trap()}, tmp_path / "trap.ckpt")
    with pytest.raises(ModelRefused, match=r"trap.ckpt holds more than tensors, .* get it as .safetensors"):
        load_network("unet", weights_of(original, tmp_path / "trap.ckpt"), torch.float32)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("kept", [0, 1000, 200_000])
def test_a_truncated_file_is_named(original: Original, tmp_path: Path, suffix: str, kept: int) -> None:
    path = save(original.tensors, tmp_path / f"short{suffix}")
    os.truncate(path, kept)
    with pytest.raises(ModelRefused, match=r"short\.\w+ is not a whole|short.ckpt holds more than tensors"):
        load_network("unet", weights_of(original, path), torch.float32)


def test_a_pickle_in_the_old_format_is_read(original: Original, tmp_path: Path) -> None:
    torch.save(original.tensors, tmp_path / "old.ckpt", _use_new_zipfile_serialization=False)
    assert load_network("vae", weights_of(original, tmp_path / "old.ckpt"), torch.float32)


def test_a_pickle_of_something_else_is_named(original: Original, tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ModelRefused, match=r"list.pt is not a checkpoint: it holds a list, no tensors by name"):
        load_network("unet", weights_of(original, tmp_path / "list.pt"), torch.float32)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("{", "is not yaml"),
        ("model: 7", "does not describe a model"),
        ("", "does not describe a model: it has no model.params"),
    ],
)
def test_a_yaml_of_something_else_is_named(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ModelRefused, match=sentence):
        read_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("part", "place", "size"),
    [
        ("unet", "unet_config.params", "model_channels"),
        ("unet", "unet_config.params", "num_heads"),
        ("controlnet", "control_stage_config.params", "context_dim"),
        ("vae", "first_stage_config.params.ddconfig", "ch_mult"),
        ("unet", "first_stage_config.params.ddconfig", "ch_mult"),
    ],
)
def test_a_yaml_that_lacks_a_size_is_named(
    original: Original, combined: Path, tmp_path: Path, part: str, place: str, size: str
) -> None:
    config = yaml.safe_load(yaml.safe_dump(CONFIG))
    fields = config["model"]["params"]
    for word in place.split("."):
        fields = fields[word]
    del fields[size]
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    weights = Weights(combined, combined, original.tokenizer, tmp_path / "c.yaml")
    sentence = rf"c.yaml does not describe a {part}: it does not name model.params.{place}.{size}"
    with pytest.raises(ModelRefused, match=sentence):
        load_network(part, weights, torch.float32)


def test_a_checkpoint_without_a_tokenizer_says_which_option_names_one(
    combined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("engines.model.locate.USUAL_TOKENIZER", "openai/not-in-any-cache")
    with pytest.raises(ModelRefused, match=r"has no tokenizer in it; name a folder with --tokenizer \(openai/not-in"):
        find_weights(str(combined))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokenizer": "{model}/unet"}, "unet holds no CLIP tokenizer"),
        ({"original_config": "nowhere.yaml"}, "nowhere.yaml is not a file; --original-config takes a .yaml"),
        ({"original_config": "{config}"}, "--original-config describes single-file checkpoints; .* is a folder"),
    ],
)
def test_a_wrong_option_is_named(original: Original, options: dict[str, str], sentence: str) -> None:
    named: dict[str, Any] = {
        key: value.format(model=original.model, config=original.config) for key, value in options.items()
    }
    with pytest.raises(ModelRefused, match=sentence):
        find_weights(str(original.model), str(original.controlnet), **named)


def test_a_file_of_another_kind_is_named(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_text("")
    with pytest.raises(ModelRefused, match=r"model.gguf is a file of a kind that is not read; known are .safetensors"):
        find_weights(str(tmp_path / "model.gguf"))


def test_the_geometry_is_the_folders(original: Original, combined: Path) -> None:
    tokens = SpecialTokens(1, 2, 3)
    mine = geometry_of(load_networks(weights_of(original, combined)), tokens)
    folder = find_weights(str(original.model), str(original.controlnet))
    assert mine == geometry_of(load_networks(folder), tokens)


def test_a_pickle_that_holds_itself_ends(tmp_path: Path) -> None:
    endless: dict[str, Any] = {}
    endless["state_dict"] = endless
    torch.save(endless, tmp_path / "model.pt")
    assert read_tensors(tmp_path / "model.pt") == {}
