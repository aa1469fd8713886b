"""The arithmetic that the worker and `producer sizes` share."""

from __future__ import annotations

import numpy as np
import pytest

from jobs.errors import SourceTooLarge
from jobs.picture_size import MAX_SIDE, target_size
from worker.image.canny import resize_image

SIDES = (1, 2, 31, 33, 64, 95, 96, 97, 100, 160, 223, 224, 225, 333)


def resized(height: int, width: int, resolution: int) -> tuple[int, ...] | None:
    """What the worker makes of a picture; None if it refuses."""
    try:
        return resize_image(np.zeros((height, width, 3), np.uint8), resolution).shape[:2]
    except SourceTooLarge:
        return None


def computed(height: int, width: int, resolution: int) -> tuple[int, ...] | None:
    try:
        return target_size(height, width, resolution)
    except SourceTooLarge:
        return None


@pytest.mark.parametrize("resolution", [64, 192])
def test_the_size_is_that_of_the_picture_that_a_worker_resizes(resolution: int) -> None:
    for height in SIDES:
        for width in SIDES:
            assert resized(height, width, resolution) == computed(height, width, resolution)


def test_the_largest_side_is_allowed_and_one_step_more_is_not() -> None:
    assert target_size(100, 800, 512) == (512, MAX_SIDE)
    with pytest.raises(
        SourceTooLarge, match=r"a picture of 810x100 pixels .* would be 4160x512; no side may exceed 4096"
    ):
        target_size(100, 810, 512)
