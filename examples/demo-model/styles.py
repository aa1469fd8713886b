"""Styles: what a style word does to a finished picture. Each takes and gives float32 RGB [H, W, 3], 0..255."""

import cv2
import numpy as np
from palette import NAMES, PALETTE, SYNONYMS
from textures import clouds

GREY = np.array([0.299, 0.587, 0.114], np.float32)


def _grey(picture: np.ndarray) -> np.ndarray:
    return picture @ GREY


def _ramp(grey: np.ndarray, stops: list[tuple[float, float, float]]) -> np.ndarray:
    """Colours a grey picture by a ramp of evenly spaced RGB stops."""
    positions = np.linspace(0, 255, len(stops))
    table = np.stack([np.interp(np.arange(256), positions, channel) for channel in zip(*stops, strict=True)], 1)
    coloured: np.ndarray = table.astype(np.float32)[np.clip(grey, 0, 255).astype(np.uint8)]
    return coloured


def _edges(picture: np.ndarray, blur: float) -> np.ndarray:
    smooth = cv2.GaussianBlur(picture, (0, 0), blur)
    gx, gy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    strongest: np.ndarray = np.sqrt(gx * gx + gy * gy).max(axis=2)
    return strongest


def watercolour(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Flat washes, paler towards the paper, with wet dark rims."""
    wash = cv2.medianBlur(np.clip(picture, 0, 255).astype(np.uint8), 7).astype(np.float32)
    size = picture.shape[:2]
    wash = 255 - (255 - wash) * (0.72 + 0.16 * clouds(rng, size, cells=4)[..., None])
    rim = np.clip(_edges(wash, 1.2) / 400, 0, 0.3)[..., None]
    painted: np.ndarray = wash * (1 - rim) + rng.normal(0, 2.5, size)[..., None].astype(np.float32)
    return painted


def oil(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Thick strokes and strong colours."""
    paint = cv2.medianBlur(np.clip(picture, 0, 255).astype(np.uint8), 7).astype(np.float32)
    grey = _grey(paint)[..., None]
    noise = rng.normal(0, 1, picture.shape[:2]).astype(np.float32)
    kernel = np.zeros((9, 9), np.float32)
    cv2.line(kernel, (0, int(rng.integers(0, 9))), (8, int(rng.integers(0, 9))), 1.0)
    strokes = cv2.filter2D(noise, -1, kernel / 9)
    painted: np.ndarray = (grey + (paint - grey) * 1.25) * (1 + 0.22 * strokes[..., None])
    return painted


def pencil(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Grey strokes on white paper."""
    grey = _grey(picture)
    soft = cv2.GaussianBlur(grey, (0, 0), 5)
    dodge = np.clip(grey / np.maximum(soft, 8.0), 0, 1.02)
    lines = np.clip(_edges(picture, 1.0) / 220, 0, 0.75)
    paper = 246 * np.clip(dodge**1.5 - lines, 0.08, 1) * (0.88 + 0.12 * np.clip(grey / 160, 0, 1))
    return np.repeat((paper + rng.normal(0, 4, grey.shape))[..., None], 3, 2).astype(np.float32)


def neon(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Glowing contours in the dark."""
    glow = np.clip(_edges(picture, 1.3) / 140, 0, 1)[..., None]
    grey = _grey(picture)[..., None]
    colour = np.clip((picture - grey) * 1.8 + 170, 30, 255)
    colour += 60 * (rng.random(3).astype(np.float32) - 0.5)
    light = colour * glow
    light = light + 0.7 * cv2.GaussianBlur(light, (0, 0), 5)
    painted: np.ndarray = light + picture * 0.10 + np.array([6, 4, 18], np.float32)
    return painted


def cartoon(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Few flat tones and black outlines."""
    flat = cv2.medianBlur(np.clip(picture, 0, 255).astype(np.uint8), 5).astype(np.float32)
    steps = float(rng.integers(44, 60))
    flat = np.floor(flat / steps) * steps + steps / 2
    ink = np.clip((_edges(flat, 1.0) - 60) / 80, 0, 1)[..., None]
    painted: np.ndarray = flat * (1 - ink * 0.9)
    return painted


def night(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Dim and blue."""
    return picture * rng.uniform(0.28, 0.4) * np.array([0.7, 0.85, 1.35], np.float32) + np.array([4, 6, 26], np.float32)


def sunset(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Warm light, from orange above to violet below."""
    t = np.linspace(0, 1, picture.shape[0], dtype=np.float32)[:, None, None]
    tint = np.array([255, 165, 70], np.float32) * (1 - t) + np.array([190, 70, 120], np.float32) * t
    grey = _grey(picture)[..., None]
    return (0.5 * picture + 0.5 * grey) * tint / 190 * 0.75 + tint * rng.uniform(0.15, 0.25)


def black_and_white(rng: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """No colour."""
    return np.repeat(_grey(picture)[..., None], 3, 2) * rng.uniform(0.9, 1.1)


def sepia(_: np.random.Generator, picture: np.ndarray) -> np.ndarray:
    """Old brown paper."""
    return _ramp(_grey(picture), [(35, 20, 10), (150, 105, 65), (245, 225, 185)])


def tones(rng: np.random.Generator, picture: np.ndarray) -> tuple[np.ndarray, str]:
    """One named hue for the whole picture, and its phrase."""
    name = str(rng.choice([n for n in NAMES if n not in {"black", "white", "grey"}]))
    centre = np.array(PALETTE[name], np.float32)
    dark, light = tuple(centre * 0.12), tuple(255 - (255 - centre) * 0.22)
    phrase = SYNONYMS[name] if name in SYNONYMS and rng.random() < 0.2 else name
    return _ramp(_grey(picture), [dark, tuple(centre * 0.92), light]), f"in {phrase} tones"


# name -> filter, phrases, whether a named colour survives it
STYLES = {
    "watercolour": (watercolour, ("watercolour", "watercolour painting", "a watercolor", "soft watercolour"), True),
    "oil": (oil, ("oil painting", "an oil painting", "thick oil paint"), True),
    "pencil": (pencil, ("pencil sketch", "pencil drawing", "a pencil sketch on paper"), False),
    "neon": (neon, ("neon", "neon lights", "glowing neon"), False),
    "cartoon": (cartoon, ("cartoon", "comic style", "cartoon with black outlines"), True),
    "night": (night, ("at night", "in the dark of night", "moonlight"), False),
    "sunset": (sunset, ("at sunset", "in sunset light", "golden sunset"), False),
    "black and white": (black_and_white, ("black and white", "monochrome photograph"), False),
    "sepia": (sepia, ("sepia", "old sepia photograph", "vintage"), False),
}


def apply(rng: np.random.Generator, picture: np.ndarray, name: str) -> tuple[np.ndarray, str]:
    """Applies one style by name ('tones' included): the picture and the phrase for its caption."""
    if name == "tones":
        return tones(rng, picture)
    paint, phrases, _ = STYLES[name]
    return paint(rng, picture), str(rng.choice(phrases))
