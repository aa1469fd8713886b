"""Which GPUs and which components have quantized layers, and what they are calibrated with. No torch here."""

from __future__ import annotations

from collections.abc import Sequence

from engines.spec import Profile

QUANTIZED_FROM = 89  # the first compute capability with e4m3
# The text encoder and the VAE run once a picture, and stay in float16.
QUANTIZED_COMPONENTS = ("controlnet", "unet")
# The components that draw the pictures of a calibration: an addition to any of them changes the scales of all.
CALIBRATED_WITH = ("clip", "hint", *QUANTIZED_COMPONENTS)


def calibration_size(profiles: Sequence[Profile]) -> tuple[int, int]:
    """Height and width, in pixels, of the pictures of a calibration: the smallest of the first profile."""
    return profiles[0].min_height, profiles[0].min_width
