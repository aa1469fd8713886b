"""The size that a picture is rendered at: ControlNet's `resize_image`, as arithmetic.

The worker resizes by it, and `producer sizes` counts by it, so both have the same numbers.
"""

from __future__ import annotations

from jobs.errors import SourceTooLarge

MULTIPLE = 64
MAX_SIDE = 4096


def target_size(height: int, width: int, resolution: int) -> tuple[int, int]:
    """Height and width in pixels with the short side at `resolution`, both rounded to multiples of 64.

    Raises:
        SourceTooLarge: with these proportions a side would exceed 4096 pixels.
    """
    factor = resolution / min(height, width)
    high, wide = (max(MULTIPLE, round(side * factor / MULTIPLE) * MULTIPLE) for side in (height, width))
    if max(high, wide) > MAX_SIDE:
        raise SourceTooLarge(
            f"a picture of {width}x{height} pixels with its short side at {resolution} would be {wide}x{high}; "
            f"no side may exceed {MAX_SIDE}: crop it, or lower image_resolution",
            fault="job",
        )
    return high, wide
