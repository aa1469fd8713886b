"""PNGs: every pixel and every text comes out as it went in."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from worker.image.png import as_json, encode_png


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 3)])
def test_a_png_keeps_every_pixel(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(encode_png(pixels, {})))), pixels)


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=200))
@settings(deadline=None)
def test_a_png_carries_any_text(text: str) -> None:
    data = encode_png(np.zeros((1, 1), np.uint8), {"parameters": text, "render": as_json({"prompt": text})})
    with Image.open(io.BytesIO(data)) as image:
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert image.text["parameters"] == text
        assert image.text["render"] == as_json({"prompt": text})


def test_latin_texts_are_in_the_chunk_that_every_reader_knows_and_others_in_unicode() -> None:
    data = encode_png(np.zeros((1, 1), np.uint8), {"latin": "für dich", "greek": "λόγος"})
    assert b"tEXtlatin\0" in data
    assert b"iTXtgreek\0" in data


def test_equal_pictures_are_equal_files() -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    assert encode_png(pixels, {"a": "b"}) == encode_png(pixels.copy(), {"a": "b"})
