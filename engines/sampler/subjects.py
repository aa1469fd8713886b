"""What is drawn: a prompt, and edges of random shapes or of a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from engines.errors import ModelRefused

PROMPTS = (
    "a photograph of a lighthouse by the sea at sunset, best quality, extremely detailed",
    "an oil painting of a cat on a chair, best quality, extremely detailed",
    "a pencil drawing of an old bridge in the snow, best quality, extremely detailed",
    "a portrait of an astronaut, studio light, best quality, extremely detailed",
)
NEGATIVE = "longbody, lowres, bad anatomy, bad hands, missing fingers"
LOW_THRESHOLD, HIGH_THRESHOLD = 100, 200  # of Canny, as in jobs


@dataclass(frozen=True)
class Subject:
    """One picture to draw: its prompts, its edges uint8 [H, W] of 0 or 255, and the seed of its noise."""

    prompt: str
    edges: np.ndarray
    seed: int
    negative: str = NEGATIVE


def built_in(height: int, width: int, seed: int) -> Subject:
    """Edges of random shapes, with one of four prompts."""
    return Subject(PROMPTS[seed % len(PROMPTS)], edges_for(height, width, seed), seed)


def edges_of(picture: Path, height: int, width: int) -> np.ndarray:
    """Canny edges of a picture, stretched to one size.

    Raises:
        ModelRefused: it cannot be read.
    """
    try:
        pixels = cv2.imread(str(picture), cv2.IMREAD_COLOR)
    except cv2.error as error:  # more pixels than it reads, or than there is memory for
        raise ModelRefused(f"{picture} is too large for OpenCV to read") from error
    if pixels is None:
        raise ModelRefused(f"{picture} is not a picture that OpenCV can read")
    stretched = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    edges: np.ndarray = cv2.Canny(stretched, LOW_THRESHOLD, HIGH_THRESHOLD)
    return edges


def edges_for(height: int, width: int, seed: int) -> np.ndarray:
    """Canny edges of a few random shapes: uint8 [H, W], 0 or 255. The seed decides the shapes."""
    edges: np.ndarray = cv2.Canny(shapes_for(height, width, seed), LOW_THRESHOLD, HIGH_THRESHOLD)
    return edges


def shapes_for(height: int, width: int, seed: int) -> np.ndarray:
    """A few random shapes in grey: uint8 [H, W]."""
    random = np.random.default_rng(seed)
    canvas = np.full((height, width), 128, np.uint8)
    for _ in range(8):
        left, top, right, bottom = (int(random.integers(0, side)) for side in (width, height, width, height))
        shade = int(random.integers(0, 256))
        if random.random() < 0.5:
            cv2.rectangle(canvas, (left, top), (right, bottom), shade, -1)
        else:
            cv2.circle(canvas, (left, top), min(height, width) // 6 + right % 16, shade, -1)
    return canvas
