"""The three photographs that training never sees, as the product would resize them."""

from functools import cache

import cv2
import numpy as np

TEST_PHOTOGRAPHS = ("chelsea", "coffee", "astronaut")
# What each is asked to become: the first keeps to its subject, the others change colour or style.
PROMPTS = {
    "chelsea": ("a photograph of a brown cat", "a cat in blue tones", "a cat, watercolour painting", "a cat, neon"),
    "coffee": (
        "a photograph of a white cup on a brown table", "a cup in green tones", "a cup, pencil sketch",
        "a red cup on a blue table",
    ),
    "astronaut": (
        "a photograph of an orange astronaut", "an astronaut in purple tones", "an astronaut, oil painting",
        "an astronaut at sunset",
    ),
}  # fmt: skip


@cache
def photograph(name: str, short_side: int = 256) -> np.ndarray:
    """A test photograph, its short side scaled and both sides rounded to multiples of 64: uint8 RGB."""
    from skimage import data

    image = np.asarray(getattr(data, name)())[..., :3]
    scale = short_side / min(image.shape[:2])
    height, width = (round(n * scale / 64) * 64 for n in image.shape[:2])
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
