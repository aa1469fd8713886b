"""Hints as ControlNet's canny2image makes them: three channels, a size that the networks accept, Canny."""

from __future__ import annotations

from functools import cache

import cv2
import numpy as np

from jobs.picture_size import target_size
from worker.image.strips import row_slices

# OpenCV keeps what it notes of every thread that has ever called one of its parallel loops (TraceManager, which gathers
# it for a trace that is never written): 0.8 KB a job, as each job has a new thread. Without threads of its own it notes
# nothing. Other jobs use the other cores, and only one parallel loop runs at a time in a process anyway.
cv2.setNumThreads(1)

# Of the pixels of pure noise, Canny marks 35 to 37%; of photographs of gravel and grass, 26 and 31%.
TOO_MANY_EDGES = 1 / 3


def three_channels(image: np.ndarray) -> np.ndarray:
    """`HWC3`: uint8 [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] -> uint8 [H, W, 3].

    Grey is repeated. RGBA is blended over white by its alpha, in float and truncated, as the original does.
    """
    if image.ndim == 2:
        image = image[:, :, None]
    height, width, channels = image.shape
    if channels == 3:
        return image
    if channels == 1:
        return np.concatenate([image] * 3, axis=2)
    assert channels == 4, f"{channels} channels"
    over_white = np.empty((height, width, 3), np.uint8)
    for rows in row_slices(height, width):
        over_white[rows] = _over_white(image[rows])
    return over_white


def _over_white(rgba: np.ndarray) -> np.ndarray:
    colours, alpha = rgba[:, :, :3], rgba[:, :, 3:]
    if (alpha == 255).all():
        return colours
    blended: np.ndarray = _blended_values()[alpha.astype(np.uint16) << 8 | colours]
    return blended


@cache
def _blended_values() -> np.ndarray:
    """uint8 [65536], at 256 * alpha + value: the original's expression for each of them, so the result is equal."""
    alpha = np.arange(256, dtype=np.uint8)[:, None].astype(np.float32) / 255.0
    values = np.arange(256, dtype=np.uint8)[None, :].astype(np.float32)
    blended: np.ndarray = (values * alpha + 255.0 * (1.0 - alpha)).clip(0, 255).astype(np.uint8).reshape(-1)
    return blended


def resize_image(image: np.ndarray, resolution: int) -> np.ndarray:
    """uint8 [H, W, 3] -> the target size: Lanczos when enlarging, area when shrinking."""
    height, width = image.shape[:2]
    return _resized(image, target_size(height, width, resolution), enlarging=resolution > min(height, width))


def resize_to(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """uint8 [H, W, 3] -> this height and width, as `resize_image` does it; other proportions are stretched."""
    return _resized(image, size, enlarging=min(size) > min(image.shape[:2]))


def _resized(image: np.ndarray, size: tuple[int, int], *, enlarging: bool) -> np.ndarray:
    resized: np.ndarray = cv2.resize(
        image, size[::-1], interpolation=cv2.INTER_LANCZOS4 if enlarging else cv2.INTER_AREA
    )
    return resized


def canny_edges(image: np.ndarray, low_threshold: int, high_threshold: int) -> np.ndarray:
    """uint8 [H, W, 3] -> uint8 [H, W], 0 or 255."""
    edges: np.ndarray = cv2.Canny(image, low_threshold, high_threshold)
    return edges


def edge_warnings(edges: np.ndarray, low_threshold: int, high_threshold: int) -> tuple[str, ...]:
    """At most one sentence on an edge map, uint8 [H, W], that cannot guide the picture; it names the thresholds.

    There may be no edges at all; so few that together they are shorter than half the short side, which is the outline
    of a square with an eighth of that side; or as many as in noise.
    """
    number = int(np.count_nonzero(edges))
    found = f"at low_threshold {low_threshold} and high_threshold {high_threshold}"
    more_contrast = "lower the thresholds, or use a picture with more contrast"
    if not number:
        return (f"no edges were found {found}, so the picture does not guide the result: {more_contrast}",)
    if 2 * number < min(edges.shape):
        return (
            f"only {number:,} pixels of edges were found {found}, so they hardly guide the result: {more_contrast}",
        )
    if number > TOO_MANY_EDGES * edges.size:
        share = round(100 * number / edges.size)
        return (
            f"{share}% of the pixels are edges {found}, as in noise: raise the thresholds, or use a smoother picture",
        )
    return ()
