"""`engines build` of a model that is not rendered here: exit code 3 on every backend, a sentence, and no traceback."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines.conftest import Ended
from tests.engines.original import CONFIG, make_original, save
from tests.engines.required import required
from tests.engines.sets import copy_of_model
from tests.models import tiny_engine_set

SIZE = ["--shape", "64x64", "--max-batch", "1"]
BACKENDS = ["torch", "onnxruntime", "inductor", "tensorrt", pytest.param("triton", marks=pytest.mark.gpu)]


def edited(weights: Path, part: str, change: dict[str, Any]) -> None:
    """Fields of one part's config.json, or of its tokenizer_config.json, replaced."""
    folder = weights / "controlnet" if part == "controlnet" else weights / "model" / part
    path = folder / ("tokenizer_config.json" if part == "tokenizer" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def built(engines: Callable[..., Ended], folder: Path, backend: str = "torch") -> Ended:
    options: list[str] = []
    if backend == "tensorrt":  # it builds for a GPU that is not here
        required("tensorrt_rtx")
        options = ["--compute-capability", "sm89"]
    precision = "fp32" if backend in ("torch", "onnxruntime", "inductor") else "fp16"
    return engines(
        *("build", "--model", folder / "weights" / "model", "--controlnet", folder / "weights" / "controlnet"),
        *(*SIZE, "--backend", backend, "--precision", precision, "--out", folder / "set", *options),
    )


def refused(ended: Ended, sentence: str) -> None:
    assert (ended.code, ended.out) == (3, "")
    assert "error: " in ended.err
    assert sentence in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("unet", {"use_linear_projection": True}, "unet/config.json has use_linear_projection True"),
        ("tokenizer", {"model_max_length": 512}, "the tokenizer's model_max_length is 512, the text encoder's"),
    ],
)
def test_a_model_is_refused_with_the_same_code_on_every_backend(
    engines: Callable[..., Ended], tmp_path: Path, backend: str, part: str, change: dict[str, Any], sentence: str
) -> None:
    edited(copy_of_model(tmp_path), part, change)
    refused(built(engines, tmp_path, backend), sentence)
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("part", "change", "sentence"),
    [
        ("unet", {"time_cond_proj_dim": 256}, "unet/config.json has time_cond_proj_dim 256"),
        ("unet", {"class_embed_type": "identity"}, "unet/config.json has class_embed_type 'identity'"),
        ("unet", {"addition_embed_type": "text_time"}, "unet/config.json has addition_embed_type 'text_time'"),
        ("unet", {"flip_sin_to_cos": False}, "unet/config.json has flip_sin_to_cos False"),
        ("unet", {"mid_block_scale_factor": 0.5}, "unet/config.json has mid_block_scale_factor 0.5"),
        ("unet", {"attention_head_dim": 2}, "its attention_head_dim is 4, the U-Net's is 2"),
        ("unet", {"something_new": None}, "unet/config.json has the field 'something_new' (None)"),
        ("unet", {"block_out_channels": "wide"}, "unet/config.json has block_out_channels 'wide', not a list of four"),
        ("controlnet", {"conditioning_channels": 4}, "controlnet/config.json has conditioning_channels 4"),
        ("controlnet", {"norm_num_groups": 4}, "its norm_num_groups is 4, the U-Net's is 8"),
        ("controlnet", {"norm_eps": 1e-6}, "its norm_eps is 1e-06, the U-Net's is 1e-05"),
        ("vae", {"act_fn": "gelu"}, "vae/config.json has act_fn 'gelu'"),
        ("vae", {"shift_factor": 0.1}, "vae/config.json has shift_factor 0.1"),
        ("text_encoder", {"hidden_act": "gelu"}, "text_encoder/config.json has hidden_act 'gelu'"),
        ("text_encoder", {"model_type": "bert"}, "text_encoder/config.json has model_type 'bert'"),
        ("text_encoder", {"eos_token_id": 7}, "the tokenizer's eos_token_id is 913, the text encoder's is 7"),
        ("tokenizer", {"tokenizer_class": "T5Tokenizer"}, "holds the tokenizer 'T5Tokenizer', which is not CLIP's"),
        ("tokenizer", {"pad_token": None}, "the tokenizer has no pad token"),
    ],
)
def test_another_graph_or_tokenizer_is_refused_by_name(
    engines: Callable[..., Ended], tmp_path: Path, part: str, change: dict[str, Any], sentence: str
) -> None:
    edited(copy_of_model(tmp_path), part, change)
    refused(built(engines, tmp_path), sentence)


def test_an_empty_tokenizer_folder_is_refused(engines: Callable[..., Ended], tmp_path: Path) -> None:
    for path in (copy_of_model(tmp_path) / "model" / "tokenizer").iterdir():
        path.unlink()
    refused(built(engines, tmp_path), "tokenizer holds no CLIP tokenizer: it has neither tokenizer.json nor vocab.json")


def test_a_tokenizer_with_more_tokens_than_the_text_encoder_is_refused(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    folder = copy_of_model(tmp_path) / "model" / "tokenizer"
    saved = json.loads((folder / "tokenizer.json").read_text())
    saved["added_tokens"].append(saved["added_tokens"][0] | {"id": 914, "content": "<my-style>"})
    (folder / "tokenizer.json").write_text(json.dumps(saved))
    refused(built(engines, tmp_path), "the tokenizer has 915 tokens, the text encoder's vocab_size is 914")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "[" * 100_000, '{"in_channels": NaN}'])
@pytest.mark.parametrize("part", ["unet", "text_encoder"])
def test_a_damaged_configuration_is_refused(
    engines: Callable[..., Ended], tmp_path: Path, part: str, content: str
) -> None:
    path = copy_of_model(tmp_path) / "model" / part / "config.json"
    path.write_text(content)
    refused(built(engines, tmp_path), f"{part}/config.json")


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("only_mid_control", True, "model.params.only_mid_control True (only the middle's control is used)"),
        (
            "cond_stage_config",
            {"target": "ldm.modules.encoders.modules.FrozenCLIPEmbedder", "params": {"layer": "hidden"}},
            "model.params.cond_stage_config.params.layer 'hidden' (prompts are taken from another layer",
        ),
        ("surprise", 1, "has the field 'model.params.surprise' (1), which this version does not know"),
    ],
)
def test_a_single_file_with_the_yaml_of_another_model_is_refused(
    engines: Callable[..., Ended], tmp_path: Path, name: str, value: Any, sentence: str
) -> None:
    original = make_original(tmp_path)
    combined = save(original.tensors, tmp_path / "control_sd15_canny.safetensors")
    model = CONFIG["model"]
    changed = {"model": model | {"params": model["params"] | {name: value}}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(changed))
    ended = engines(
        *("build", "--model", combined, "--original-config", tmp_path / "other.yaml"),
        *("--tokenizer", original.tokenizer, *SIZE, "--backend", "torch", "--out", tmp_path / "set"),
    )
    refused(ended, f"{tmp_path / 'other.yaml'} has {sentence.removeprefix('has ')}")


def test_a_name_that_the_system_does_not_take_is_a_sentence(engines: Callable[..., Ended], tmp_path: Path) -> None:
    long = "a" * 300
    refused(engines("build", "--model", long, *SIZE, "--backend", "torch", "--out", tmp_path / "set"), "name too long")
    copy_of_model(tmp_path)
    ended = engines("build", "--model", tmp_path / "weights", *SIZE, "--backend", "torch", "--out", tmp_path / long)
    assert ended == Ended(5, "", f"error: {tmp_path / long}: File name too long; name another folder with --out")


@pytest.mark.parametrize("option", [[], ["--traceback"]])
def test_an_unexpected_error_is_a_sentence_and_its_traceback_is_shown_when_asked_for(option: list[str]) -> None:
    """A disk that is full when the result is printed."""
    command = [sys.executable, "-m", "engines.cli", *option, "inspect", str(tiny_engine_set("torch"))]
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 7
    assert ended.stderr.splitlines()[-1] == "error: No space left on device"
    assert ("Traceback" in ended.stderr) is bool(option)


def test_ctrl_c_ends_quietly() -> None:
    script = (
        "import engines.cli, engines.file_check, os, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a test run in the background ignores it
        "engines.file_check.check_files = lambda *_: os.kill(os.getpid(), signal.SIGINT)\n"
        "engines.cli.main()"
    )
    command = [sys.executable, "-c", script, "inspect", str(tiny_engine_set("torch"))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr.strip()) == (130, "", "")
