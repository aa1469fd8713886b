"""The distance between two sets' pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from engines.build.builder import build_set
from engines.check import score as score_module
from engines.check.perception import has_flip
from engines.check.score import ScoreRequest, distance, pictures, psnr, score
from engines.engine_set import load_engine_set
from engines.errors import EngineSetRefused
from engines.sampler.subjects import edges_for
from tests.engines.check.inception import random_weights
from tests.engines.conftest import Ended
from tests.engines.sets import copy_of_model, copy_of_set, edit_manifest, request_for, spoil, train_a_little
from tests.models import tiny_engine_set, tiny_model

REQUEST = ScoreRequest(height=64, width=128, samples=2, steps=2)
ONE = ScoreRequest(height=64, width=64, samples=1, steps=2)


def test_the_distance_is_the_psnr_of_eight_bit_pictures() -> None:
    black = np.zeros((4, 4, 3), np.uint8)
    assert distance(black, black).psnr_db == psnr(black, black) == math.inf
    assert distance(black, black).to_json() == {"psnr_db": None, "largest": 0}
    white = np.full_like(black, 255)
    assert (distance(black, white).psnr_db, distance(white, black).largest) == (0.0, 255)
    one_off = black + np.uint8(1)
    assert distance(one_off, black).to_json() == {"psnr_db": 48.13, "largest": 1}


def test_edges_are_drawn_by_the_seed() -> None:
    edges = edges_for(64, 128, seed=0)
    assert edges.shape == (64, 128)
    assert set(np.unique(edges)) == {0, 255}
    assert np.array_equal(edges, edges_for(64, 128, seed=0))
    assert not np.array_equal(edges, edges_for(64, 128, seed=1))


def test_a_set_is_at_no_distance_from_itself_and_every_seed_has_its_picture() -> None:
    folder = tiny_engine_set()
    with load_engine_set(folder, threads=2) as opened:
        first, second = pictures(opened, REQUEST)
    assert first.shape == (64, 128, 3)
    assert first.dtype == np.uint8
    assert first.std() > 5
    assert distance(first, second).psnr_db < 30
    assert [found.psnr_db for found in score(folder, folder, REQUEST)] == [math.inf, math.inf]


def test_another_backend_in_float32_is_at_a_small_distance_and_half_precision_at_a_larger_one(tmp_path: Path) -> None:
    reference = tiny_engine_set("torch")
    (single,) = score(tiny_engine_set("onnxruntime"), reference, ONE)
    build_set(request_for(tiny_model(), tmp_path / "half", shape="64x64", precision="fp16"))
    (half,) = score(tmp_path / "half", reference, ONE)
    assert single.psnr_db > 50
    assert 20 < half.psnr_db < single.psnr_db


def test_sets_of_different_weights_are_not_compared(tmp_path: Path) -> None:
    weights = copy_of_model(tmp_path)
    train_a_little(weights / "model" / "unet")
    build_set(request_for(weights, tmp_path / "set", shape="64x64"))
    with pytest.raises(EngineSetRefused, match="the set was built from other weights"):
        score(tiny_engine_set("torch"), tmp_path / "set", ONE)


def test_a_size_that_was_not_built_is_refused() -> None:
    folder = tiny_engine_set()
    with pytest.raises(EngineSetRefused, match=r"was built for 64x64:512x512, not for 576x64"):
        score(folder, folder, ScoreRequest(576, 64, 1, 1))


def test_the_second_set_is_looked_at_before_the_first_one_draws(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Drawing takes minutes: a mistyped name is said before."""
    monkeypatch.setattr(score_module, "_picture", lambda *_: pytest.fail("the first set drew"))
    folder = tiny_engine_set()
    build_set(request_for(tiny_model(), tmp_path / "other-size", shape="128x128"))
    older = copy_of_set(tmp_path)
    edit_manifest(older, lambda manifest: manifest["versions"].update(torch="0.1"))
    for name, sentence in (
        ("nowhere", "nowhere is not a finished engine set"),
        ("other-size", "other-size was built for 128x128, not for 64x64"),
        (older.name, r"built for torch 0\.1"),
    ):
        with pytest.raises(EngineSetRefused, match=sentence):
            score(folder, tmp_path / name, ONE)


def test_pictures_that_are_not_numbers_are_not_called_equal(tmp_path: Path) -> None:
    """What a float16 decoder gives that overflows. As bytes such pictures would all be black."""
    folder = copy_of_set(tmp_path, "onnxruntime")
    spoil(folder, "decoder", math.nan)
    with pytest.raises(
        EngineSetRefused, match=r"set: the picture of seed 0 has values that are not numbers; engines ver"
    ):
        score(folder, folder, ONE)


def test_the_command_prints_one_line_and_holds_a_limit(engines: Callable[..., Ended]) -> None:
    sets = [tiny_engine_set("onnxruntime"), tiny_engine_set("torch")]
    common = ["--shape", "64x64", "--samples", "1", "--steps", "2"]
    ended = engines("score", *sets, *common, "--at-least", "40")
    assert ended.code == 0
    told = json.loads(ended.out)
    assert (told["height"], told["width"], told["samples"], told["steps"]) == (64, 64, 1, 2)
    assert told["set"] != told["reference"]
    (picture,) = told["pictures"]
    assert picture["psnr_db"] is None or picture["psnr_db"] > 40
    assert "1 pictures of 64x64, 2 steps: " in ended.err
    assert engines("score", *sets, *common, "--at-least", "1000").code == (0 if picture["psnr_db"] is None else 1)
    assert "all pictures are equal" in engines("score", sets[0], sets[0], *common).err
    assert engines("score", *sets, "--shape", "64x64:128x128").code == 2


def test_all_measures_are_in_the_table_and_in_json_and_the_worst_are_on_the_sheet(
    engines: Callable[..., Ended], tmp_path: Path
) -> None:
    sets = [tiny_engine_set("onnxruntime"), tiny_engine_set("torch")]
    weights = tmp_path / "fid.pth"
    torch.save(random_weights(), weights)
    size = ("--shape", "64x64", "--samples", "2", "--steps", "1")
    ended = engines("score", *sets, *size, "--inception", weights, "--sheet", tmp_path / "sheet.png", "--worst", "1")
    assert ended.code == 0
    told = json.loads(ended.out)
    assert [picture["seed"] for picture in told["pictures"]] == [0, 1]
    for picture in told["pictures"]:
        assert 0.99 < picture["ssim"] <= 1
        assert 0 <= picture["pd"] < 1
        assert (picture["flip"] is None) == (not has_flip())
    assert told["sheet"] == str(tmp_path / "sheet.png")
    for words in ("seed", "PSNR (dB)", "SSIM", "FLIP", "PD", "largest difference"):
        assert words in ended.err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.height < 64 * 2 + 100  # one row
    ended = engines("score", *sets, *size, "--inception", tmp_path / "none.pth")
    assert ended.code == 3
    assert "none.pth" in ended.err
