"""Any bytes as a picture's file give pixels, or one of our errors: no other error, and they never hang."""

from __future__ import annotations

import io
from typing import cast

import numpy as np
import pytest
from hypothesis import given
from PIL import Image

from jobs.errors import NotAnImage, SourceTooLarge
from tests.fuzz.outcome import result_or_sentence
from tests.fuzz.pictures import any_bytes, pictures
from tests.jobs.rows import make_job
from worker.fake import FakeTokenizer
from worker.image.decode import decode_image
from worker.image.source import FRAMES_COUNTED
from worker.image.tokens import Tokenizer
from worker.prepare import prepare

MAX_PIXELS = 100_000


@given(any_bytes())
def test_any_bytes_become_pixels_or_a_sentence(data: bytes) -> None:
    picture = result_or_sentence(lambda: decode_image(data, max_pixels=MAX_PIXELS), NotAnImage, SourceTooLarge)
    if isinstance(picture, str):
        return
    pixels = picture.pixels
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2 or pixels.shape[2] in (3, 4)
    assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS


@given(any_bytes())
def test_any_bytes_become_requests_or_a_sentence(data: bytes) -> None:
    job, tokenizer = make_job(image_resolution=64), cast(Tokenizer, FakeTokenizer())
    prepared = result_or_sentence(
        lambda: prepare(job, data, tokenizer=tokenizer, max_pixels=MAX_PIXELS), NotAnImage, SourceTooLarge
    )
    if isinstance(prepared, str):
        return
    assert prepared.width % 64 == 0
    assert prepared.height % 64 == 0
    assert decode_image(prepared.canny_png, max_pixels=10**9).pixels.shape == (prepared.height, prepared.width)


def test_the_pictures_that_are_damaged_here_can_be_read_whole() -> None:
    assert len(pictures()) > 40
    for data in pictures():
        assert decode_image(data, max_pixels=MAX_PIXELS).pixels.shape[:2] in ((13, 17), (17, 13))


def jpeg_with_passes(number: int, side: int) -> bytes:
    """A progressive JPEG, and `number` passes more that refine nothing."""
    buffer = io.BytesIO()
    Image.new("L", (side, side)).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data.rindex(b"\xff\xda")
    header = data[last : last + 2 + int.from_bytes(data[last + 2 : last + 4], "big")]
    return data[:-2] + (header + b"\0") * number + data[-2:]


def test_a_jpeg_that_passes_over_its_pixels_without_end_is_refused_before_it_is_decoded() -> None:
    assert decode_image(jpeg_with_passes(50, 64), max_pixels=64 * 64).pixels.shape == (64, 64)
    with pytest.raises(NotAnImage, match=r"passes 100,\d{3} times"):
        decode_image(jpeg_with_passes(100_000, 64), max_pixels=64 * 64)


def test_the_frames_of_a_tiff_are_counted_to_a_limit() -> None:
    buffer = io.BytesIO()
    frames = [Image.new("L", (1, 1))] * (FRAMES_COUNTED + 5)
    frames[0].save(buffer, "TIFF", save_all=True, append_images=frames[1:])
    assert decode_image(buffer.getvalue(), max_pixels=10).warnings == ("the first of 1000 or more frames was used",)
    frames[0].save(few := io.BytesIO(), "TIFF", save_all=True, append_images=frames[1:3])
    assert decode_image(few.getvalue(), max_pixels=10).warnings == ("the first of 3 frames was used",)
