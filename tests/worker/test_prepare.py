"""A job and its picture's bytes -> samples."""

from __future__ import annotations

import io
from typing import Any, cast

import cv2
import numpy as np
import pytest
from PIL import Image

from jobs.errors import NotAnImage, SourceTooLarge
from jobs.job import EMPTY_PROMPT, RenderJob
from tests.jobs.rows import make_job
from tests.sixteen_bit_files import png16
from worker.fake import FakeTokenizer
from worker.image.tokens import Tokenizer
from worker.prepare import Prepared, control_scales, full_prompt, prepare

SIZE = (100, 150)


def photograph() -> np.ndarray:
    rng = np.random.default_rng(1)
    pixels = cv2.resize(rng.integers(60, 160, (5, 5, 3), dtype=np.uint8), SIZE[::-1])
    cv2.circle(pixels, (70, 50), 30, (250, 220, 0), -1)
    return pixels


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def prepared(job: RenderJob, data: bytes | None = None) -> Prepared:
    tokenizer = cast(Tokenizer, FakeTokenizer())
    return prepare(job, png(photograph()) if data is None else data, tokenizer=tokenizer, max_pixels=1_000_000)


def job(**parameters: Any) -> RenderJob:
    values: dict[str, Any] = {"prompt": "a house", "image_resolution": 128, "seed": 5} | parameters
    return make_job(1, **values)


def test_one_request_a_sample_and_each_has_its_own_seed() -> None:
    requests = prepared(job(num_samples=3, ddim_steps=7, eta=0.5, scale=0.0)).specs
    assert [(one.sample, one.seed) for one in requests] == [(0, 5), (1, 6), (2, 7)]
    assert {(one.job_id, one.steps, one.eta, one.scale) for one in requests} == {(job_id(requests), 7, 0.5, 0.0)}


def job_id(requests: tuple[Any, ...]) -> str:
    return str(requests[0].job_id)


def test_edges_are_those_of_the_resized_picture_at_the_job_s_thresholds() -> None:
    result = prepared(job(low_threshold=30, high_threshold=90))
    resized = cv2.resize(photograph(), (192, 128), interpolation=cv2.INTER_LANCZOS4)
    expected = cv2.Canny(resized, 30, 90)
    assert (result.height, result.width) == (128, 192)
    assert all(np.array_equal(one.edges, expected) for one in result.specs)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(result.canny_png))), expected)


def test_prompts_are_put_together_as_canny2image_does() -> None:
    assert full_prompt(job(a_prompt="sharp").parameters) == "a house, sharp"
    assert full_prompt(job(a_prompt="").parameters) == "a house"
    (request,) = prepared(job(a_prompt="sharp", n_prompt="dull")).specs
    tokenizer = FakeTokenizer()
    assert np.array_equal(request.cond_ids, tokenizer.encode("a house, sharp").ids)
    assert np.array_equal(request.uncond_ids, tokenizer.encode("dull").ids)


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_thirteen_scales_a_half(strength: float) -> None:
    unconditional, conditional = control_scales(job(strength=strength).parameters)
    assert unconditional == conditional == (strength,) * 13


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_guess_mode_has_falling_scales_and_no_control_of_the_unconditional_half(strength: float) -> None:
    unconditional, conditional = control_scales(job(strength=strength, guess_mode=True).parameters)
    assert unconditional == (0.0,) * 13
    assert conditional == tuple(strength * 0.825 ** (12 - i) for i in range(13))
    assert conditional[12] == strength


def test_prompts_that_are_cut_are_warnings_that_show_what_was_cut() -> None:
    result = prepared(job(prompt=" ".join(f"w{n}" for n in range(100)), a_prompt="", n_prompt="x " * 80))
    first, second = result.warnings
    assert first.startswith("prompt is too long for 77 tokens; cut off: 'w75 w76")
    assert first.endswith("...'")
    assert len(first) < 120
    assert second == "n_prompt is too long for 77 tokens; cut off: 'x x x x x'"
    assert prepared(job()).warnings == ()


def test_an_empty_prompt_or_a_prompt_leaves_no_comma() -> None:
    """canny2image renders `, sharp` and `a house, ` here."""
    assert full_prompt(job(prompt=EMPTY_PROMPT, a_prompt="sharp").parameters) == "sharp"
    assert full_prompt(job(prompt=EMPTY_PROMPT, a_prompt="").parameters) == ""
    (request,) = prepared(job(prompt=EMPTY_PROMPT, a_prompt="", n_prompt="")).specs
    assert np.array_equal(request.cond_ids, FakeTokenizer().encode("").ids)
    assert np.array_equal(request.uncond_ids, FakeTokenizer().encode("").ids)


def test_a_picture_without_edges_and_prompts_of_other_tools_are_warned_of() -> None:
    result = prepared(job(prompt="(cat:1.3)", a_prompt="[sharp]", n_prompt="nan"), png(np.zeros((64, 64), np.uint8)))
    kinds = [warning.partition(" such as ")[0] for warning in result.warnings[1:]]
    assert result.warnings[0].startswith("no edges were found at low_threshold 100 and high_threshold 200")
    assert kinds == ["prompt has prompt weights", "a_prompt has emphasis brackets", "n_prompt has values"]


def test_a_12_bit_picture_in_16_has_edges() -> None:
    values = np.round(photograph().astype(float) / 255 * 4095).astype(np.uint16)
    result = prepared(job(), png16(values))
    assert result.warnings[0].startswith("16 bits a channel were reduced to 8 as those of a 12-bit picture")
    assert len(result.warnings) == 1
    assert np.array_equal(result.specs[0].edges, prepared(job()).specs[0].edges)


def test_what_decoding_lost_is_among_the_warnings() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(buffer, "PNG")
    assert "16 bits" in prepared(job(), buffer.getvalue()).warnings[0]


@pytest.mark.parametrize(
    ("data", "error"),
    [(b"", NotAnImage), (b"text", NotAnImage), (png(np.zeros((8, 6400), np.uint8)), SourceTooLarge)],
    ids=["empty", "text", "ribbon"],
)
def test_a_picture_that_cannot_be_used_is_refused(data: bytes, error: type[Exception]) -> None:
    with pytest.raises(error):
        prepared(job(), data)


def test_equal_jobs_are_prepared_to_equal_files() -> None:
    assert prepared(job()).canny_png == prepared(job()).canny_png
