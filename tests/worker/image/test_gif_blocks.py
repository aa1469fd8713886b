"""The first frame of a GIF, as Pillow draws it from the whole file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from jobs.errors import NotAnImage
from worker.image.decode import decode_image
from worker.image.gif_blocks import MOST_BLOCKS, MOST_PARTS, SCREEN, first_frame


def gif(number: int, mode: str = "P", **options: Any) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (number, 15, 20, 3), dtype=np.uint8)
    frames = [Image.fromarray(frame).convert(mode) for frame in noise]
    frames[0].save(buffer := io.BytesIO(), "GIF", save_all=True, append_images=frames[1:], **options)
    return buffer.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGBA" if "transparency" in image.info else "RGB"))


@pytest.mark.parametrize("options", [{}, {"transparency": 3}, {"comment": b"c" * 600}, {"disposal": 2, "loop": 0}])
@pytest.mark.parametrize("mode", ["P", "L"])
@pytest.mark.parametrize("number", [1, 4])
def test_the_first_frame_has_the_pixels_that_pillow_finds(number: int, mode: str, options: dict[str, Any]) -> None:
    data = gif(number, mode, **options)
    pixels = decode_image(data, max_pixels=1000).pixels
    expected = by_pillow(data)
    assert np.array_equal(pixels if pixels.ndim == 3 else np.stack([pixels] * 3, axis=2), expected)


def test_frames_are_counted_to_a_limit() -> None:
    data = gif(5)
    assert [first_frame(data, limit=limit)[1] for limit in (1, 3, 5, 9)] == [1, 3, 5, 5]


def test_what_comes_after_the_first_frame_may_be_cut() -> None:
    data = gif(3)
    for end in range(len(data) - 200, len(data)):
        assert np.array_equal(decode_image(data[:end], max_pixels=1000).pixels, by_pillow(data))


def test_a_gif_that_is_cut_in_its_first_frame_is_truncated() -> None:
    data = gif(1)
    for share in (0.1, 0.5, 0.9):
        with pytest.raises(NotAnImage):
            decode_image(data[: int(len(data) * share)], max_pixels=1000)


BLOCK = b"!\xfe\0"
PARTS = b"!\xfe" + b"\1x" * (3 * MOST_PARTS) + b"\0"


@pytest.mark.parametrize("extra", [BLOCK * (3 * MOST_BLOCKS), PARTS], ids=["blocks", "parts"])
def test_far_too_much_before_the_first_frame_is_refused(extra: bytes) -> None:
    data = gif(2)
    at = SCREEN + 3 * 2 ** ((data[10] & 7) + 1)
    with pytest.raises(NotAnImage, match=r"more than [0-9,]+ (blocks|parts of blocks) before .*save it again"):
        decode_image(data[:at] + extra + data[at:], max_pixels=1000)


@pytest.mark.parametrize("extra", [BLOCK * (3 * MOST_BLOCKS), PARTS], ids=["blocks", "parts"])
def test_frames_behind_far_too_much_are_not_counted(extra: bytes) -> None:
    data = gif(1)[:-1]
    one, two = (first_frame(data + extra * number + data[SCREEN + 768 :], limit=9) for number in (0, 1))
    assert (one[1], two[1]) == (2, 1)
    assert np.array_equal(decode_image(data + extra + b";", max_pixels=1000).pixels, by_pillow(data + b";"))
