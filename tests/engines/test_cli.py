"""`engines` as a stranger types it: what goes to stdout, what to stderr, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.engines.conftest import Ended
from tests.engines.sets import copy_of_model, copy_of_set, edit_manifest
from tests.models import tiny_engine_set, tiny_model


@pytest.fixture
def weights() -> list[str]:
    model = tiny_model()
    return ["--model", f"{model / 'model'}", "--controlnet", f"{model / 'controlnet'}"]


def test_a_set_is_built_verified_inspected_and_timed(
    engines: Callable[..., Ended], weights: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "set"
    build = ["build", *weights, "--shape", "64x64", "--max-batch", "2", "--backend", "torch", "--out", out]
    built = engines(*build)
    assert built.code == 0
    assert "unet: weights done in" in built.err
    assert built.err.endswith(f"{out}: built, 5 stages run")
    told = json.loads(built.out)
    assert (told["set"], told["backend"], told["stages_run"]) == (str(out), "torch", 5)

    again = engines(*build)
    assert again.err == f"{out}: everything is up to date"
    assert json.loads(again.out) == told | {"stages_run": 0}

    verified = engines("verify", out)
    assert verified.code == 0
    assert json.loads(verified.out)["ok"] is True
    for heading in ("max abs error", "max rel error", "holds at rtol / atol", "1e-03 / 1e-05"):
        assert heading in verified.err

    for option in ("--controlnet", "--tokenizer", "--original-config", "--lora", "--vae"):  # of no use without --model
        ended = engines("verify", out, option, tmp_path / "nowhere")
        assert (ended.code, ended.out) == (2, "")
        assert "name the model as well" in ended.err

    manifest = json.loads(engines("inspect", out).out)
    assert manifest["digest"] == told["digest"]
    assert manifest["profiles"][0]["max_batch"] == 2
    assert set(manifest["components"]) == {"clip", "hint", "controlnet", "unet", "decoder"}

    timed = engines("bench", out, "--batch", "2", "--steps", "2", "--warmups", "1", "--threads", "1")
    assert timed.code == 0
    line = json.loads(timed.out)
    assert timed.out.count("\n") == 1
    assert (line["height"], line["width"], line["batch"], line["rows"], line["steps"]) == (64, 64, 2, 4, 2)
    assert set(line["timings"]) == {*manifest["components"], "guided_step"}
    assert all(0 < t["p50_ms"] <= t["p95_ms"] for t in line["timings"].values())


def test_a_tilde_that_the_shell_left_is_the_home_folder(
    engines: Callable[..., Ended], weights: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Shells expand it in `--out ~/set`, not in `--out=~/set`: a folder named ~ would be made where one stands."""
    home, here = tmp_path / "home", tmp_path / "here"
    here.mkdir()
    absolute = [str(Path(word).absolute()) if "/" in word else word for word in weights]
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    build = ["build", *absolute, "--shape=64x64", "--max-batch=1", "--backend=torch"]
    assert json.loads(engines(*build, "--out=~/set").out)["set"] == str(home / "set")
    assert json.loads(engines(*build, "--reuse=~/set", "--out=~/again").out)["stages_run"] == 0
    engines("score", home / "set", home / "again", "--samples=1", "--steps=1", "--sheet=~/sheet.png")
    assert sorted(path.name for path in home.iterdir()) == ["again", "set", "sheet.png"]
    assert not list(here.iterdir())
    for options in (["export", *absolute, "--out=~/set"], [*build, "--out=~/x", "--sizes=~/sizes.json"]):
        assert str(home) in engines(*options).err
    assert not list(here.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["build", "--model=m", "--shape=64x64", "--out="], "'--out': the path is empty"),
        (["build", "--model=m", "--out=x", "--sizes="], "'--sizes': the path is empty"),
        (["export", "--model=m", "--out=~nobody-of-this-name/x"], "'--out': ~nobody-of-this-name/x: no such user"),
        (["pull", "sets", "--into="], "'--into': the path is empty"),
        (["pull", "sets", "--into=x", "--link="], "'--link': the path is empty"),
        (["build", "--model=", "--shape=64x64", "--out=x"], "the name of a model is empty"),
        (["verify", "~nobody-of-this-name/set"], "'SET': ~nobody-of-this-name/set: no such user"),
        (["inspect", ""], "'SET': the path is empty"),
        (["score", "set", ""], "'REFERENCE': the path is empty"),
        (["build", "--model=~nobody-of-this-name/m", "--shape=64x64", "--out=x"], "is neither a folder"),
    ],
)
def test_a_path_that_is_empty_or_of_no_user_is_refused(
    engines: Callable[..., Ended],
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An empty one, as of a shell's variable that is not set, would be the current folder."""
    monkeypatch.chdir(tmp_path)
    ended = engines(*arguments)
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


def test_verify_ends_with_1_when_a_component_is_out_of_tolerance(
    engines: Callable[..., Ended], weights: list[str], tmp_path: Path
) -> None:
    """Half precision, judged by the ladder for single precision."""
    out = tmp_path / "set"
    precision = ["--precision", "fp16", "--backend", "torch"]
    assert engines("build", *weights, "--shape", "64x64", "--max-batch", 1, *precision, "--out", out).code == 0
    verified = engines("verify", out)
    assert verified.code == 1
    assert "none" in verified.err
    told = json.loads(verified.out)
    assert told["ok"] is False
    assert {finding["component"] for finding in told["findings"] if not finding["ok"]} >= {"controlnet", "unet"}
    accepted = engines("verify", out, "--within", "0.1")
    assert (accepted.code, json.loads(accepted.out)["ok"]) == (0, True)
    assert "0.1 of the largest" in accepted.err


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--shape", "500x512"], 2, "Invalid value for --shape: 500x512: sides must be multiples of 64 pixels"),
        (["--shape", "512"], 2, "'512' is not a shape; write HEIGHTxWIDTH, or a range 256x256:512x768"),
        (["--shape", "512x512:64x64"], 2, "512x512:64x64: the smaller shape comes first"),
        ([], 2, "Missing option '--shape'"),
        (["--shape", "64x64", "--max-batch", "0"], 2, "'--max-batch': Input should be greater than or equal to 1"),
        (["--shape", "64x64", "--backend", "openvino"], 2, "'openvino' is not one of 'auto', 'tensorrt', 'triton'"),
        (["--shape", "64x64", "--precision", "bf16"], 2, "'bf16' is not one of 'fp16', 'fp32'"),
        (
            ["--shape", "64x64", "--precision", "fp16", "--backend", "onnxruntime"],
            4,
            "in fp32 only; use --precision fp32",
        ),
        (
            ["--shape", "64x64", "--backend", "torch", "--compute-capability", "sm89"],
            4,
            "error: --compute-capability is for tensorrt",
        ),
        (
            ["--shape", "64x64", "--backend", "torch", "--version-compatible"],
            4,
            "error: --version-compatible is for tensorrt; torch loads what it built",
        ),
        (
            ["--shape", "64x64", "--backend", "torch", "--model", "./nowhere"],
            3,
            "./nowhere is neither a folder, nor a file",
        ),
        (
            ["--shape", "64x64", "--backend", "torch", "--model", "nowhere/"],
            3,
            "nowhere/ is neither a folder, nor a file",
        ),
    ],
)
def test_a_wrong_build_ends_with_a_sentence_and_its_code(
    engines: Callable[..., Ended], weights: list[str], tmp_path: Path, options: list[str], code: int, sentence: str
) -> None:
    ended = engines("build", *weights, "--out", tmp_path / "set", *options)
    assert (ended.code, ended.out) == (code, "")
    assert sentence in ended.err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_another_layout_is_named_with_what_it_lacks(engines: Callable[..., Ended], tmp_path: Path) -> None:
    model = tiny_model()
    common = ["--shape", "64x64", "--backend", "torch", "--out", tmp_path / "set"]
    ended = engines("build", "--model", model / "controlnet", *common)
    assert ended.code == 3
    assert "is not in diffusers' layout: it has no unet, vae, text_encoder, tokenizer, scheduler" in ended.err
    ended = engines("build", "--model", model / "model", *common)
    assert ended.code == 3
    assert "holds no ControlNet (no config.json); name one with --controlnet" in ended.err


def test_a_hub_that_does_not_answer_is_said_in_one_line(
    engines: Callable[..., Ended], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    ended = engines(
        "build", "--model", "nobody/nothing", "--shape", "64x64", "--backend", "torch", "--out", tmp_path / "s"
    )
    assert ended.code == 3
    assert ended.err.startswith("error: nobody/nothing is not a folder here, and the hub did not give it: ")


@pytest.mark.parametrize("name", ["set[bold]", "set:x:", "[red]set[/red]"])
def test_a_path_is_shown_as_it_is_written(
    engines: Callable[..., Ended], weights: list[str], tmp_path: Path, name: str
) -> None:
    """rich reads [bold] as a style, and :x: as a picture."""
    out = tmp_path / name.replace("/", "-")
    ended = engines("build", *weights, "--shape", "64x64", "--backend", "torch", "--out", out)
    assert ended.err.endswith(f"{out}: built, 5 stages run")


def test_a_target_that_is_a_file_is_refused(engines: Callable[..., Ended], weights: list[str], tmp_path: Path) -> None:
    (tmp_path / "set").write_text("")
    ended = engines("build", *weights, "--shape", "64x64", "--backend", "torch", "--out", tmp_path / "set")
    assert ended == Ended(5, "", f"error: {tmp_path / 'set'} is a file; name a folder with --out")


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_a_changed_set_is_refused_by_every_command(engines: Callable[..., Ended], tmp_path: Path, command: str) -> None:
    folder = copy_of_set(tmp_path)
    with (folder / "tokenizer.json").open("a") as file:
        file.write(" ")
    ended = engines(command, folder)
    assert (ended.code, ended.out) == (6, "")
    assert ended.err.startswith(f"error: {folder / 'tokenizer.json'} was changed after it was built")


@pytest.mark.parametrize("command", ["inspect", "verify", "bench"])
def test_a_folder_that_is_no_set_is_refused_by_every_command(
    engines: Callable[..., Ended], tmp_path: Path, command: str
) -> None:
    ended = engines(command, tmp_path)
    assert ended == Ended(6, "", f"error: {tmp_path} is not a finished engine set: it has no manifest.json")


def test_a_set_for_another_version_can_be_inspected_but_not_loaded(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    folder = copy_of_set(tmp_path)
    edit_manifest(folder, lambda manifest: manifest["versions"].update(torch="1.13.1"))
    assert engines("inspect", folder).code == 0
    ended = engines("bench", folder)
    assert ended.code == 6
    assert "the set was built for torch 1.13.1" in ended.err


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--shape", "576x64"], 6, "the set was built for 64x64:512x512 and batches up to 4, not for 576x64 and 1"),
        (["--batch", "5"], 6, "batches up to 4, not for 512x512 and 5"),
        (["--shape", "64x64:128x128"], 2, "'64x64:128x128' is a range; name one size"),
        (["--device", "gpu"], 2, "'gpu' is not one of 'auto', 'cpu', 'cuda'"),
    ],
)
def test_a_bench_of_what_was_not_built_is_refused(
    engines: Callable[..., Ended], options: list[str], code: int, sentence: str
) -> None:
    ended = engines("bench", tiny_engine_set(), *options)
    assert (ended.code, ended.out) == (code, "")
    assert sentence in ended.err


def test_verify_takes_weights_by_name_and_refuses_others(engines: Callable[..., Ended], tmp_path: Path) -> None:
    weights = copy_of_model(tmp_path)
    config = weights / "controlnet" / "config.json"
    config.write_text(config.read_text() + " ")
    ended = engines("verify", tiny_engine_set(), "--model", weights / "model", "--controlnet", weights / "controlnet")
    assert ended.code == 6
    assert "the set was built from other weights" in ended.err


@pytest.mark.parametrize("command", [[], ["build"], ["verify"], ["inspect"], ["bench"], ["score"], ["export"]])
def test_help_says_the_exit_codes(engines: Callable[..., Ended], command: list[str]) -> None:
    ended = engines(*command, "--help")
    assert ended.code == 0
    assert "Exit codes: 0 done; 1 out of tolerance (verify, score);" in " ".join(ended.out.split())


def test_the_command_line_starts_without_torch() -> None:
    script = "import sys, engines.cli; print(sorted({'torch', 'onnx', 'diffusers'} & set(sys.modules)))"
    found: Any = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
