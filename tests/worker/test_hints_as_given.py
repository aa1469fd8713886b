"""`control` and `control_image`: which picture the hint is made of, at which size, and whether it is edges."""

from __future__ import annotations

import io
from typing import Any, cast

import cv2
import numpy as np
import pytest
from PIL import Image

from jobs.errors import NotAnImage, SourceTooLarge
from jobs.job import RenderJob
from tests.worker.test_prepare import job, photograph, png
from worker.fake import FakeTokenizer
from worker.image.decode_budget import DecodeBudget
from worker.image.tokens import Tokenizer
from worker.prepare import Prepared, prepare

TARGET = (128, 192)  # of the photograph at 128


def prepared(one: RenderJob, control: bytes | None = None, data: bytes | None = None, **options: Any) -> Prepared:
    image = png(photograph()) if data is None else data
    options = {"max_pixels": 1_000_000} | options
    return prepare(one, image, tokenizer=cast(Tokenizer, FakeTokenizer()), control_data=control, **options)


def hint(result: Prepared) -> np.ndarray:
    """The hint of all samples, which is also what is kept as a file."""
    hints = [spec.edges for spec in result.specs]
    saved = np.asarray(Image.open(io.BytesIO(result.canny_png)))
    assert all(np.array_equal(one, saved) for one in hints)
    return hints[0]


def resized(pixels: np.ndarray, size: tuple[int, int], method: int) -> np.ndarray:
    return cv2.resize(pixels, size[::-1], interpolation=method)


def depth(size: tuple[int, int]) -> np.ndarray:
    return np.tile(np.linspace(0, 255, size[1], dtype=np.uint8), (size[0], 1))


def test_with_none_the_picture_is_the_hint_in_rgb_and_resized() -> None:
    result = prepared(job(control="none", num_samples=2))
    assert np.array_equal(hint(result), resized(photograph(), TARGET, cv2.INTER_LANCZOS4))
    assert (result.height, result.width) == TARGET == result.specs[0].shape
    assert result.warnings == ()


def test_grey_and_sixteen_bit_depth_maps_are_hints_of_three_equal_channels() -> None:
    for data in (png(depth((128, 192))), png(depth((128, 192)).astype(np.uint16) * 257)):
        result = prepared(job(control="none"), data=data)
        assert np.array_equal(hint(result), np.stack([depth((128, 192))] * 3, axis=2))


def test_the_control_image_is_the_hint_at_the_size_that_image_gives() -> None:
    pose = np.random.default_rng(3).integers(0, 255, (400, 600, 3), dtype=np.uint8)
    result = prepared(job(control="none"), png(pose))
    assert np.array_equal(hint(result), resized(pose, TARGET, cv2.INTER_AREA))
    assert result.warnings == ()


def test_with_canny_the_edges_are_those_of_the_control_image() -> None:
    result = prepared(job(low_threshold=30, high_threshold=90), png(photograph()), png(np.zeros((100, 150), np.uint8)))
    expected = cv2.Canny(resized(photograph(), TARGET, cv2.INTER_LANCZOS4), 30, 90)
    assert np.array_equal(hint(result), expected)
    assert result.warnings == ()


@pytest.mark.parametrize("control", ["canny", "none"])
@pytest.mark.parametrize("size", [(100, 150), (128, 192), (300, 450)])
def test_a_control_image_that_is_the_image_changes_nothing(control: str, size: tuple[int, int]) -> None:
    data = png(cv2.resize(photograph(), size[::-1]))
    one = job(control=control)
    assert np.array_equal(hint(prepared(one, data, data)), hint(prepared(one, data=data)))


def test_a_control_image_of_other_proportions_is_stretched_with_a_warning() -> None:
    square = np.random.default_rng(3).integers(0, 255, (90, 90, 3), dtype=np.uint8)
    result = prepared(job(control="none"), png(square))
    assert np.array_equal(hint(result), resized(square, TARGET, cv2.INTER_LANCZOS4))
    assert result.warnings == (
        "control_image has 90x90 pixels and image 150x100, which are other proportions: it was stretched to 192x128",
    )


def test_the_image_gives_its_size_as_it_is_turned() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    Image.fromarray(photograph()).save(buffer, "JPEG", exif=exif)
    assert hint(prepared(job(control="none"), png(photograph()), buffer.getvalue())).shape == (192, 128, 3)


def test_transparent_parts_and_hints_of_one_colour_are_warned_of() -> None:
    pose = np.zeros((100, 150, 4), np.uint8)
    pose[20:40, 20:40] = (255, 0, 0, 255)
    result = prepared(job(control="none"), png(pose))
    assert result.warnings == ("control_image: the hint is transparent in places, which became white",)
    assert hint(result)[0, 0].tolist() == [255, 255, 255]
    (warning,) = prepared(job(control="none"), data=png(np.zeros((100, 150), np.uint8))).warnings
    assert warning.startswith("the hint has one colour everywhere")


def test_edges_are_not_warned_of_where_none_are_looked_for() -> None:
    noise = np.random.default_rng(3).integers(0, 255, (128, 192, 3), dtype=np.uint8)
    assert prepared(job(control="none"), data=png(noise)).warnings == ()
    assert "edges" in prepared(job(), png(noise)).warnings[0]


@pytest.mark.parametrize(
    ("control", "error", "said"),
    [
        (b"text", NotAnImage, "control_image: not a picture that can be read"),
        (b"", NotAnImage, "control_image: the file is empty"),
        (png(np.zeros((1200, 1200), np.uint8)), SourceTooLarge, "control_image: the picture has 1200x1200"),
    ],
    ids=["text", "empty", "large"],
)
def test_what_is_wrong_with_the_control_image_is_said_of_it(control: bytes, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=f"^{said}"):
        prepared(job(), control)
    with pytest.raises(NotAnImage, match=r"^not a picture"):
        prepared(job(), png(photograph()), b"text")


def test_the_two_pictures_are_decoded_one_after_the_other() -> None:
    taken: list[int] = []

    class Counted(DecodeBudget):
        def _take(self, share: int) -> None:
            assert self._taken == 0
            taken.append(share)
            super()._take(share)

    prepared(job(), png(depth((50, 70))), budget=Counted())
    assert taken == [100 * 150, 50 * 70]
