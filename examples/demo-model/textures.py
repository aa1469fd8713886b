"""Patterns that paint surfaces: every function gives float32 [H, W] around 1, to be multiplied with a colour."""

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

Size = tuple[int, int]  # height, width
Texture = Callable[[np.random.Generator, Size], np.ndarray]


def clouds(rng: np.random.Generator, size: Size, *, cells: int = 3) -> np.ndarray:
    """Smooth fractal noise in about [-1, 1]."""
    height, width = size
    total = np.zeros((height, width), np.float32)
    for octave in range(4):
        grid = rng.normal(0, 1, (cells * 2**octave + 1, cells * 2**octave + 1)).astype(np.float32)
        total += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC) * 0.55**octave
    return total / 1.6


def _axes(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, np.ndarray]:
    angle = rng.choice([0.0, np.pi / 2, np.pi / 4, rng.uniform(0, np.pi)])
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return x * c + y * s, y * c - x * s


def stripes(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Bands, hard or soft, at any angle."""
    period = rng.uniform(14, 40)
    u, _ = _axes(rng, size)
    return np.asarray(np.clip(np.sin(u * (2 * np.pi / period)) * 4, -1, 1) * rng.uniform(0.12, 0.35) + 0.95, np.float32)


def checks(rng: np.random.Generator, size: Size) -> np.ndarray:
    """A chessboard at any angle."""
    period = rng.uniform(20, 56)
    u, v = _axes(rng, size)
    wave = np.clip(np.sin(u * (2 * np.pi / period)) * 5, -1, 1) * np.clip(np.sin(v * (2 * np.pi / period)) * 5, -1, 1)
    return np.asarray(wave * rng.uniform(0.12, 0.35) + 0.95, np.float32)


def dots(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Round dots in rows."""
    period = rng.uniform(16, 40)
    u, v = _axes(rng, size)
    wave = np.sin(u * (2 * np.pi / period)) + np.sin(v * (2 * np.pi / period))
    return np.asarray(1 + np.clip((wave - 0.9) * 4, 0, 1) * rng.choice([-0.4, 0.35]), np.float32)


def waves(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Bands that bend."""
    u, v = _axes(rng, size)
    phase = np.sin(v * (2 * np.pi / rng.uniform(40, 90))) * rng.uniform(1, 3)
    return np.asarray(
        1 + np.clip(np.sin(u * (2 * np.pi / rng.uniform(18, 44)) + phase) * 3, -1, 1) * rng.uniform(0.1, 0.3),
        np.float32,
    )


def wood(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Grain with rings."""
    u, v = _axes(rng, size)
    rings = u / rng.uniform(8, 20) + clouds(rng, size, cells=2) * 3 + v / 200
    return np.asarray(1 + np.sin(rings * 2) * rng.uniform(0.08, 0.2), np.float32)


def metal(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Broad smooth reflections."""
    u, _ = _axes(rng, size)
    band = np.sin(u / max(size) * rng.uniform(6, 14) + rng.uniform(0, 6))
    return np.asarray(1 + band * 0.3 + (band > 0.85) * 0.15, np.float32)


def fuzz(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Small soft clouds."""
    return np.asarray(1 + clouds(rng, size, cells=int(rng.integers(8, 20))) * rng.uniform(0.12, 0.3), np.float32)


def fur(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Short strokes along a slowly turning direction."""
    height, width = size
    noise = rng.normal(0, 1, (height, width)).astype(np.float32)
    length = int(rng.integers(7, 17))
    kernel = np.zeros((length, length), np.float32)
    end = (int(length * rng.random()), length - 1)
    cv2.line(kernel, (length - 1 - end[0], 0), end, 1.0)
    return 1 + cv2.filter2D(noise, -1, kernel / kernel.sum()) * np.float32(rng.uniform(0.2, 0.5))


def marble(rng: np.random.Generator, size: Size) -> np.ndarray:
    """Dark veins."""
    veins = np.abs(clouds(rng, size, cells=3))
    return np.asarray(1.05 - np.clip(0.12 - veins, 0, 1) * rng.uniform(2, 4), np.float32)


@cache
def _photographed(name: str) -> np.ndarray:
    from skimage import data

    picture = getattr(data, name)().astype(np.float32)
    flattened: np.ndarray = picture / cv2.GaussianBlur(picture, (0, 0), 60)
    return flattened


def _from_photo(name: str) -> Texture:
    def texture(rng: np.random.Generator, size: Size) -> np.ndarray:
        source = _photographed(name)
        side = int(rng.uniform(0.4, 0.9) * min(source.shape))
        y, x = (int(rng.integers(0, n - side + 1)) for n in source.shape)
        patch = cv2.resize(source[y : y + side, x : x + side], size[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(np.clip(1 + (patch - 1) * rng.uniform(0.5, 1.0), 0.4, 1.6), np.float32)

    return texture


TEXTURES = {
    "striped": stripes, "checkered": checks, "dotted": dots, "wavy": waves, "wooden": wood, "metal": metal,
    "fuzzy": fuzz, "furry": fur, "marble": marble,
    "brick": _from_photo("brick"), "grassy": _from_photo("grass"), "stone": _from_photo("gravel"),
}  # fmt: skip


def lighting(rng: np.random.Generator, size: Size) -> np.ndarray:
    """A soft light from one side: float32 [H, W] around 1."""
    u, _ = _axes(rng, size)
    u = (u - u.min()) / max(float(np.ptp(u)), 1.0)
    return np.asarray(1 + (u - 0.5) * rng.uniform(-0.5, 0.5), np.float32)
