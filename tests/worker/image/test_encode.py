"""Pictures out: what a JPEG or WebP keeps of the pixels, and where image tools find its texts."""

from __future__ import annotations

import io
import json
import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from engines.check.score import psnr
from producer.picture_texts import texts_of
from worker.image.encode import DEFAULT_QUALITY, JPEG_EXIF_BYTES, encode_picture
from worker.image.exif_texts import exif_of
from worker.image.png import as_json, encode_png

LOSSY = ("jpeg", "webp")
USER_COMMENT, EXIF_DIRECTORY, DESCRIPTION = 0x9286, 0x8769, 0x010E
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=100)
ENOUGH_DB = 30.0


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    return np.asarray(cv2.resize(rng.integers(0, 255, (8, 12, 3), dtype=np.uint8), (192, 128)))


def texts(prompt: str) -> dict[str, str]:
    return {"parameters": f"{prompt}\nSteps: 20, Seed: 5", "render": as_json({"prompt": prompt, "seed": 5})}


def opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def directory(tiff: bytes, at: int) -> dict[int, bytes | int]:
    """A big-endian TIFF directory as piexif reads it: a value is bytes where its type says ASCII or undefined."""
    values: dict[int, bytes | int] = {}
    for place in range(at + 2, at + 2 + 12 * int.from_bytes(tiff[at : at + 2]), 12):
        tag, kind, count, value = struct.unpack_from(">HHII", tiff, place)
        assert kind in (2, 4, 7)
        if kind == 4:
            values[tag] = value
        else:
            values[tag] = tiff[value : value + count] if count > 4 else tiff[place + 8 : place + 8 + count]
    return values


def infotext(data: bytes) -> str:
    """As AUTOMATIC1111's web interface reads it (modules/images.py, read_info_from_image) with piexif."""
    exif = opened(data).info["exif"]
    tiff = exif.removeprefix(b"Exif\0\0")
    assert tiff.startswith(b"MM\0*\0\0\0\x08")
    pointer = directory(tiff, 8)[EXIF_DIRECTORY]
    assert isinstance(pointer, int)
    comment = directory(tiff, pointer)[USER_COMMENT]
    assert isinstance(comment, bytes)
    assert comment[:8] == b"UNICODE\0"
    return comment[8:].decode("utf-16-be")


@pytest.mark.parametrize("format_", LOSSY)
def test_the_pixels_are_nearly_kept_and_a_lower_quality_makes_a_smaller_file(format_: str) -> None:
    data = encode_picture(picture(), {}, format=format_)
    assert opened(data).format == format_.upper()
    assert psnr(np.asarray(opened(data)), picture()) > ENOUGH_DB
    low, high = (encode_picture(picture(), {}, format=format_, quality=quality) for quality in (20, 100))
    assert len(low) < len(data) < len(high)
    assert data == encode_picture(picture(), {}, format=format_, quality=DEFAULT_QUALITY[format_])


def test_a_jpeg_of_high_quality_keeps_its_colours_at_full_resolution() -> None:
    layers = [opened(encode_picture(picture(), {}, format="jpeg", quality=q)).layer for q in (90, 89)]  # type: ignore[attr-defined]
    assert [layer[0][1:3] for layer in layers] == [(1, 1), (2, 2)]


def test_a_png_is_what_it_always_was() -> None:
    assert encode_picture(picture(), texts("a"), format="png") == encode_png(picture(), texts("a"))


@pytest.mark.parametrize("format_", LOSSY)
def test_equal_pictures_are_equal_files(format_: str) -> None:
    files = {encode_picture(picture().copy(), texts("für dich, 日本 🦊"), format=format_) for _ in range(2)}
    assert len(files) == 1


@pytest.mark.parametrize("format_", LOSSY)
@pytest.mark.parametrize("prompt", ["a cat", "für dich", "日本 🦊 (x:1.2)", 'say "no", \\ twice', "a\nb\tc", ""])
def test_image_tools_and_ours_read_the_texts(format_: str, prompt: str) -> None:
    data = encode_picture(picture(), texts(prompt), format=format_)
    assert infotext(data) == texts(prompt)["parameters"]
    read = texts_of(opened(data))
    assert read["parameters"] == texts(prompt)["parameters"]
    assert json.loads(read["render"]) == {"prompt": prompt, "seed": 5}


@given(TEXT)
@settings(deadline=None, max_examples=50)
def test_any_text_is_carried(prompt: str) -> None:
    pixels = np.zeros((8, 8, 3), np.uint8)
    assert infotext(encode_picture(pixels, texts(prompt), format="jpeg")) == texts(prompt)["parameters"]


def test_the_description_is_ascii_and_ends_with_a_nul() -> None:
    description = directory(exif_of(texts("日本"), limit=None)[6:], 8)[DESCRIPTION]
    assert isinstance(description, bytes)
    assert description.endswith(b"}\0")
    assert json.loads(description[:-1].decode("ascii"))["prompt"] == "日本"


def test_texts_too_long_for_a_jpeg_leave_the_json_out_and_then_all() -> None:
    """Three prompts of 4,000 characters: 72 KB as JSON, 24 KB as the comment. Storage has the JSON in the sidecar."""
    long, longer = texts("日" * 12_000), texts("🦊" * 17_000)
    data = encode_picture(picture(), long, format="jpeg")
    assert infotext(data) == long["parameters"]
    assert set(texts_of(opened(data))) == {"parameters"}
    assert set(texts_of(opened(encode_picture(picture(), long, format="webp")))) == {"parameters", "render"}
    assert exif_of(longer, limit=JPEG_EXIF_BYTES) == b""
    assert "exif" not in opened(encode_picture(picture(), longer, format="jpeg")).info
