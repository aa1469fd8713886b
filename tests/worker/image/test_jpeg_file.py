"""What stands before a JPEG's pixels, far too often."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from jobs.errors import NotAnImage
from worker.image.decode import decode_image


def jpeg(**options: object) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer := io.BytesIO(), "JPEG", **options)
    return buffer.getvalue()


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def before_the_pixels(extra: bytes) -> bytes:
    data = jpeg()
    return data[:20] + extra + data[20:]  # behind JFIF's segment


EXIF = segment(0xE1, b"Exif\0\0" + b"x" * 1000)
PHOTOSHOP = segment(0xED, b"Photoshop 3.0\0" + b"8BIM\4\4\0\0\0\0\0\0" * 5000)
HARMFUL = {
    "empty segments": segment(0xE5, b"") * 100_000,
    "comments": segment(0xFE, b"") * 100_000,
    "padding": b"\xff" * 300_000,
    "what is no marker": b"x" * 300_000,
    "restarts": b"\xff\xd0" * 100_000,
    "EXIF": EXIF * 200,
    "Photoshop's resources": PHOTOSHOP * 10,
}


@pytest.mark.parametrize("extra", HARMFUL)
def test_far_too_much_before_the_pixels_is_refused(extra: str) -> None:
    with pytest.raises(NotAnImage, match=r"the JPEG has .*save it again"):
        decode_image(before_the_pixels(HARMFUL[extra]), max_pixels=5000)


USUAL = {
    "a colour profile of the longest kind": b"".join(
        segment(0xE2, b"ICC_PROFILE\0" + bytes([number, 255]) + b"x" * 1000) for number in range(1, 256)
    ),
    "EXIF in a few segments": EXIF * 3,
    "Photoshop's resources": PHOTOSHOP,
    "padding": b"\xff" * 1000,
    "comments": segment(0xFE, b"hello") * 1000,
}


@pytest.mark.parametrize("extra", USUAL)
def test_what_pictures_have_before_their_pixels_does_no_harm(extra: str) -> None:
    expected = decode_image(jpeg(), max_pixels=5000).pixels
    assert np.array_equal(decode_image(before_the_pixels(USUAL[extra]), max_pixels=5000).pixels, expected)
