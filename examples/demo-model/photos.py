"""Crops of the photographs in scikit-image and scikit-learn. chelsea, coffee and astronaut stay out: they test."""

from functools import cache

import cv2
import numpy as np
import styles
from scenes import Scene, styled
from textures import Size

# README.md has each one's author and terms; china and flower (scikit-learn) are CC BY 2.0.
PHOTOGRAPHS: dict[str, tuple[str, ...]] = {
    "rocket": ("a rocket on its launch pad", "a rocket"),
    "camera": ("a man with a camera", "a person behind a camera on a tripod"),
    "coins": ("old coins", "rows of coins"),
    "china": ("a temple", "a Chinese temple roof, trees"),
    "flower": ("a dahlia flower", "a flower, petals"),
    "clock": ("a blurred clock",),
    "brick": ("a brick wall",),
    "grass": ("grass", "a meadow"),
    "gravel": ("gravel", "small stones"),
    "hubble_deep_field": ("galaxies", "stars and galaxies in space"),
    "retina": ("the retina of an eye",),
    "immunohistochemistry": ("cells under a microscope",),
    "horse": ("a horse", "the outline of a horse"),
    "moon": ("the surface of the moon", "craters"),
}
WHOLE = ("rocket", "camera", "coins", "china", "flower", "horse")  # things rather than surfaces: drawn more often
STYLE_CHOICES = (None,) * 6 + tuple(styles.STYLES) + ("tones",) * 6


@cache
def load(name: str) -> np.ndarray:
    """One training photograph: uint8 RGB [H, W, 3]."""
    if name in {"china", "flower"}:
        from sklearn.datasets import load_sample_image

        return np.asarray(load_sample_image(f"{name}.jpg"))
    from skimage import data

    picture = getattr(data, name)()
    if picture.dtype == bool:
        picture = picture.astype(np.uint8) * 255
    return np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else np.ascontiguousarray(picture[..., :3])


def photo_scene(rng: np.random.Generator, size: Size) -> Scene:
    """A random crop at a random scale, sometimes mirrored, recoloured or in a style."""
    name = str(rng.choice(WHOLE if rng.random() < 0.65 else list(PHOTOGRAPHS)))
    photo, (height, width) = load(name), size
    fit = min(photo.shape[0] / height, photo.shape[1] / width)
    scale = fit * rng.uniform(0.45, 1.0)
    rows, columns = int(height * scale), int(width * scale)
    y, x = int(rng.integers(0, photo.shape[0] - rows + 1)), int(rng.integers(0, photo.shape[1] - columns + 1))
    crop = photo[y : y + rows, x : x + columns]
    if rng.random() < 0.5:
        crop = crop[:, ::-1]
    method = cv2.INTER_AREA if scale > 1 else cv2.INTER_CUBIC
    picture = cv2.resize(np.ascontiguousarray(crop), (width, height), interpolation=method).astype(np.float32)
    picture = (picture - 128) * rng.uniform(0.85, 1.25) + 128 + rng.uniform(-15, 15)
    caption = str(rng.choice(PHOTOGRAPHS[name]))
    if rng.random() < 0.5:
        caption = f"a photograph of {caption}"
    return styled(rng, picture, caption, names=STYLE_CHOICES)
