"""The twelve colours that captions may name, and the way back from pixels to a name."""

import cv2
import numpy as np

# sRGB centres, chosen far apart in CIELAB so that a name can be read back from a picture.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (205, 32, 36),
    "orange": (242, 130, 26),
    "yellow": (245, 216, 48),
    "green": (44, 150, 56),
    "turquoise": (48, 192, 190),
    "blue": (40, 76, 210),
    "purple": (126, 48, 168),
    "pink": (244, 142, 184),
    "brown": (116, 72, 36),
    "black": (24, 24, 26),
    "grey": (128, 128, 130),
    "white": (240, 240, 238),
}
SYNONYMS = {"grey": "gray", "turquoise": "cyan", "purple": "violet", "red": "crimson", "yellow": "golden"}
NAMES = tuple(PALETTE)


def shade(rng: np.random.Generator, name: str, *, spread: float = 10.0) -> np.ndarray:
    """A random shade of a named colour: float32 RGB, 0..255."""
    return np.clip(np.array(PALETTE[name], np.float32) + rng.normal(0, spread, 3), 0, 255).astype(np.float32)


def nearest_name(rgb: np.ndarray) -> str:
    """The palette name whose centre is nearest to one RGB colour (0..255) in CIELAB."""
    swatches = np.array([[rgb, *PALETTE.values()]], np.float32) / 255.0
    lab = cv2.cvtColor(swatches, cv2.COLOR_RGB2LAB)[0]
    # Lightness counts half: shading and texture change it, and no two names differ by lightness alone but the greys.
    distance = np.linalg.norm((lab[1:] - lab[0]) * np.array([0.5, 1.0, 1.0], np.float32), axis=1)
    return NAMES[int(distance.argmin())]


def colour_name(image: np.ndarray, mask: np.ndarray) -> str:
    """The name of a masked region's median colour; image uint8 [H, W, 3], mask bool [H, W]."""
    return nearest_name(np.median(image[mask], axis=0))
