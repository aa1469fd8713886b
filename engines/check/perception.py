"""How far apart two pictures look: SSIM, and FLIP where its package is installed. Both compare uint8 [H, W, 3]."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

import cv2
import numpy as np

from engines.errors import BackendUnavailable

# Wang, Bovik, Sheikh, Simoncelli, "Image Quality Assessment: From Error Visibility to Structural Similarity", 2004.
WINDOW, SIGMA = 11, 1.5  # of the Gaussian that weights a pixel's neighbours
STABLE_MEAN, STABLE_VARIANCE = (0.01 * 255) ** 2, (0.03 * 255) ** 2

FLIP_PACKAGE = "flip_evaluator"


def ssim(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity, 1 for equal pictures: the mean over the three channels and all whole windows.

    Raises:
        ValueError: a side is shorter than the window's 11 pixels.
    """
    assert one.shape == other.shape, f"{one.shape} and {other.shape}"
    if min(one.shape[:2]) < WINDOW:
        raise ValueError(f"SSIM compares windows of {WINDOW}x{WINDOW} pixels; {one.shape[1]}x{one.shape[0]} is smaller")
    a, b = one.astype(np.float64), other.astype(np.float64)
    mean_a, mean_b = _blurred(a), _blurred(b)
    variance_a = _blurred(a * a) - mean_a**2
    variance_b = _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    likeness = (2 * mean_a * mean_b + STABLE_MEAN) * (2 * covariance + STABLE_VARIANCE)
    likeness /= (mean_a**2 + mean_b**2 + STABLE_MEAN) * (variance_a + variance_b + STABLE_VARIANCE)
    edge = WINDOW // 2
    return float(likeness[edge:-edge, edge:-edge].mean())


def has_flip() -> bool:
    """Whether FLIP's package is installed."""
    return importlib.util.find_spec(FLIP_PACKAGE) is not None


def flip(one: np.ndarray, reference: np.ndarray) -> float:
    """LDR-FLIP of a picture and its reference: the mean error, 0 for equal pictures and at most 1.

    Andersson, Nilsson, Akenine-Möller, Oskarsson, Åström, Fairchild, "FLIP: A Difference Evaluator for Alternating
    Images", 2020, by the authors' own package.

    Raises:
        BackendUnavailable: the package is not installed.
    """
    if not has_flip():
        raise BackendUnavailable("FLIP needs the package flip-evaluator: pip install 'batch-renderer[score]'")
    package: Any = importlib.import_module(FLIP_PACKAGE)
    pair = (np.ascontiguousarray(picture, dtype=np.float32) / 255 for picture in (reference, one))
    # As seen 0.7 m before a screen of 0.7 m and 3840 pixels, 67 pixels per degree: the package's default.
    _, mean, _ = package.evaluate(*pair, "LDR", applyMagma=False)
    return float(mean)


def _blurred(channels: np.ndarray) -> np.ndarray:
    blurred: np.ndarray = cv2.GaussianBlur(channels, (WINDOW, WINDOW), SIGMA)
    return blurred
