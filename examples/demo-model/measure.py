"""What is measured: edges that agree within a tolerance, colours by name."""

import cv2
import numpy as np
from data import canny


def edge_f1(output: np.ndarray, control: np.ndarray, *, tolerance: int = 2) -> float:
    """F1 of an output's canny edges (100/200) against the control's, within `tolerance` pixels.

    output uint8 RGB [H, W, 3]; control bool [H, W]. Two empty maps agree; one empty map agrees with nothing.
    """
    drawn = canny(output)
    if not drawn.any() or not control.any():
        return float(drawn.any() == control.any())
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * tolerance + 1, 2 * tolerance + 1))
    near_control = cv2.dilate(control.astype(np.uint8), disc).astype(bool)
    near_drawn = cv2.dilate(drawn.astype(np.uint8), disc).astype(bool)
    precision, recall = float(near_control[drawn].mean()), float(near_drawn[control].mean())
    return 2 * precision * recall / max(precision + recall, 1e-9)


def saturation(image: np.ndarray) -> float:
    """Mean HSV saturation, 0..1."""
    return float(cv2.cvtColor(image, cv2.COLOR_RGB2HSV)[..., 1].mean() / 255)


def colour_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Mean CIELAB distance of two uint8 pictures; 2.3 is just visible."""
    lab = [cv2.cvtColor(x.astype(np.float32) / 255, cv2.COLOR_RGB2LAB) for x in (a, b)]
    return float(np.linalg.norm(lab[0] - lab[1], axis=2).mean())
