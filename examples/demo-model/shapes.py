"""Nouns that can be drawn: each is a list of parts, each part a set of contours in the square [-1, 1]."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Contour = np.ndarray  # float [N, 2], x to the right and y down


@dataclass(frozen=True)
class Part:
    """Contours filled together by the even-odd rule, and the paint they take ('main', 'dark', 'light' or a colour)."""

    contours: tuple[Contour, ...]
    paint: str = "main"


def _polar(radius: Callable[[np.ndarray], np.ndarray], points: int = 72) -> Contour:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    r = radius(angle)
    return np.stack([r * np.sin(angle), -r * np.cos(angle)], 1)


def _bump(angle: np.ndarray, sharpness: float) -> np.ndarray:
    """1 at angle 0, falling off to both sides."""
    return np.exp(-(((angle + np.pi) % (2 * np.pi) - np.pi) ** 2) * sharpness)


def _ellipse(x: float, y: float, rx: float, ry: float) -> Contour:
    return _polar(np.ones_like, 48) * [rx, ry] + [x, y]


def _box(x0: float, y0: float, x1: float, y1: float) -> Contour:
    return np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], float)


def _points(*xy: float) -> Contour:
    return np.array(xy, float).reshape(-1, 2)


def _regular(sides: int) -> list[Part]:
    return [Part((_polar(np.ones_like, sides),))]


def _star(_: np.random.Generator) -> list[Part]:
    outline = _polar(np.ones_like, 10)
    outline[1::2] *= 0.42
    return [Part((outline,))]


def _heart(_: np.random.Generator) -> list[Part]:
    t = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [Part((np.stack([16 * np.sin(t) ** 3 / 16.5, -(y + 2.5) / 15.5], 1),))]


def _crescent(_: np.random.Generator) -> list[Part]:
    outer = np.linspace(0.25 * np.pi, 1.75 * np.pi, 40)
    inner = outer[::-1]
    a = np.stack([np.cos(outer), np.sin(outer)], 1)
    b = np.stack([np.cos(inner) * 0.75 + 0.33, np.sin(inner) * 0.75 * 0.98], 1)
    return [Part((np.concatenate([a, b]),))]


def _flower(rng: np.random.Generator) -> list[Part]:
    petals = int(rng.integers(5, 9))
    return [
        Part((_polar(lambda t: 0.72 + 0.28 * np.cos(petals * t), 120),)),
        Part((_ellipse(0, 0, 0.25, 0.25),), "yellow"),
    ]


def _cloud(_: np.random.Generator) -> list[Part]:
    puffs = [(-0.5, 0.15, 0.45), (0.5, 0.15, 0.45), (-0.1, -0.2, 0.5), (0.3, -0.1, 0.4)]
    return [Part((_ellipse(x, y, r, r),)) for x, y, r in puffs] + [Part((_box(-0.5, 0.1, 0.5, 0.6),))]


def _house(rng: np.random.Generator) -> list[Part]:
    parts = [Part((_box(-0.75, -0.15, 0.75, 1),)), Part((_points(-1, -0.15, 0, -1, 1, -0.15),), "dark")]
    parts.append(Part((_box(-0.18, 0.35, 0.18, 1),), "brown"))
    return parts + [Part((_box(x, 0.1, x + 0.3, 0.45),), "light") for x in (-0.6, 0.3) if rng.random() < 0.85]


def _tree(rng: np.random.Generator) -> list[Part]:
    trunk = Part((_box(-0.14, 0.2, 0.14, 1),), "brown")
    if rng.random() < 0.5:
        return [
            trunk,
            *(Part((_points(-s, y, 0, y - 0.75, s, y),)) for s, y in ((0.8, 0.5), (0.65, 0.1), (0.5, -0.25))),
        ]
    return [trunk, *(Part((_ellipse(x, y, 0.5, 0.5),)) for x, y in ((-0.35, -0.2), (0.35, -0.2), (0, -0.5)))]


def _fish(_: np.random.Generator) -> list[Part]:
    tail = Part((_points(0.45, 0, 1, -0.5, 0.85, 0, 1, 0.5),), "dark")
    return [
        tail,
        Part((_ellipse(-0.2, 0, 0.8, 0.48),)),
        Part((_ellipse(-0.65, -0.1, 0.1, 0.1),), "white"),
        Part((_ellipse(-0.66, -0.1, 0.05, 0.05),), "black"),
        Part((_points(-0.1, -0.1, 0.25, 0, -0.1, 0.2),), "dark"),
    ]


def _cup(_: np.random.Generator) -> list[Part]:
    handle = Part((_ellipse(0.68, 0.05, 0.32, 0.38), _ellipse(0.68, 0.05, 0.2, 0.25)))
    body = _points(-0.8, -0.5, 0.7, -0.5, 0.5, 0.75, -0.6, 0.75)
    return [
        Part((_ellipse(-0.05, 0.8, 0.95, 0.2),), "light"),
        handle,
        Part((body,)),
        Part((_ellipse(-0.05, -0.5, 0.75, 0.22),), "light"),
        Part((_ellipse(-0.05, -0.47, 0.64, 0.16),), "brown"),
    ]


def _bottle(_: np.random.Generator) -> list[Part]:
    body = _points(-0.15, -0.8, 0.15, -0.8, 0.15, -0.4, 0.42, -0.1, 0.42, 1, -0.42, 1, -0.42, -0.1, -0.15, -0.4)
    return [Part((body,)), Part((_box(-0.18, -1, 0.18, -0.8),), "dark"), Part((_box(-0.42, 0.2, 0.42, 0.65),), "light")]


def _car(_: np.random.Generator) -> list[Part]:
    wheels = [
        Part((_ellipse(x, 0.45, r, r),), paint) for x in (-0.55, 0.55) for r, paint in ((0.25, "black"), (0.11, "grey"))
    ]
    cabin = _points(-0.55, -0.05, -0.35, -0.5, 0.3, -0.5, 0.55, -0.05)
    glass = _points(-0.42, -0.05, -0.28, -0.4, 0.24, -0.4, 0.42, -0.05)
    return [Part((cabin,)), Part((glass,), "light"), Part((_box(-1, -0.05, 1, 0.45),)), *wheels]


def _boat(_: np.random.Generator) -> list[Part]:
    sail = [
        Part((_points(-0.05, -1, -0.05, 0.2, -0.75, 0.2),), "light"),
        Part((_points(0.05, -0.8, 0.6, 0.2, 0.05, 0.2),), "light"),
    ]
    return [
        Part((_box(-0.05, -1, 0.05, 0.4),), "brown"),
        *sail,
        Part((_points(-1, 0.35, 1, 0.35, 0.65, 0.9, -0.65, 0.9),)),
    ]


def _mushroom(_: np.random.Generator) -> list[Part]:
    cap = np.concatenate([_polar(np.ones_like, 48)[:13], _polar(np.ones_like, 48)[36:]])
    cap = cap[np.argsort(cap[:, 0])] * [1, 0.85] + [0, 0.05]
    spots = [Part((_ellipse(x, y, 0.13, 0.11),), "white") for x, y in ((-0.45, -0.3), (0.1, -0.55), (0.5, -0.2))]
    return [Part((_box(-0.25, 0, 0.25, 0.95),), "light"), Part((cap,)), *spots]


def _apple(_: np.random.Generator) -> list[Part]:
    body = _polar(lambda t: 0.85 - 0.16 * _bump(t, 6)) + np.array([0, 0.12])
    return [Part((_points(-0.04, -0.55, 0.1, -1, 0.18, -0.97, 0.05, -0.5),), "brown"), Part((body,)),
            Part((_ellipse(0.32, -0.82, 0.25, 0.1),), "green")]  # fmt: skip


def _cat(_: np.random.Generator) -> list[Part]:
    parts = [Part((_points(s * 0.8, -0.95, s * 0.75, -0.1, s * 0.2, -0.55),)) for s in (-1, 1)]
    parts += [Part((_points(s * 0.7, -0.72, s * 0.66, -0.3, s * 0.38, -0.5),), "pink") for s in (-1, 1)]
    parts += [Part((_ellipse(0, 0.15, 0.85, 0.75),)), Part((_ellipse(0, 0.48, 0.38, 0.28),), "light")]
    for s in (-1, 1):
        parts += [
            Part((_ellipse(s * 0.36, 0.02, 0.17, 0.14),), "green"),
            Part((_ellipse(s * 0.36, 0.02, 0.06, 0.13),), "black"),
        ]
        parts += [Part((_points(s * 0.3, y, s, y - 0.08, s, y - 0.05),), "white") for y in (0.42, 0.55)]
    return [*parts, Part((_points(-0.11, 0.28, 0.11, 0.28, 0, 0.42),), "pink")]


def _person(_: np.random.Generator) -> list[Part]:
    torso = _points(-0.3, -0.4, 0.3, -0.4, 0.95, 0.4, 0.95, 1, -0.95, 1, -0.95, 0.4)
    head = [Part((_ellipse(0, -0.55, 0.42, 0.45),), "brown"), Part((_ellipse(0, -0.48, 0.33, 0.4),), "skin")]
    eyes = [Part((_ellipse(s * 0.13, -0.55, 0.05, 0.04),), "black") for s in (-1, 1)]
    return [Part((torso,)), *head, *eyes, Part((_ellipse(0, -0.28, 0.12, 0.04),), "red")]


def _astronaut(_: np.random.Generator) -> list[Part]:
    torso = _points(-0.4, -0.25, 0.4, -0.25, 0.95, 0.4, 0.95, 1, -0.95, 1, -0.95, 0.4)
    helmet = [Part((_ellipse(0, -0.45, 0.52, 0.52),), "light"), Part((_ellipse(0, -0.42, 0.38, 0.36),), "black")]
    return [
        Part((torso,)),
        Part((_box(-0.35, 0.3, 0.35, 0.75),), "light"),
        *helmet,
        Part((_ellipse(-0.12, -0.55, 0.1, 0.08),), "white"),
    ]


def _bird(_: np.random.Generator) -> list[Part]:
    return [
        Part((_points(0.4, 0.1, 1, -0.2, 0.95, 0.25),), "dark"),
        Part((_ellipse(0, 0.15, 0.65, 0.42),)),
        Part((_ellipse(-0.5, -0.3, 0.32, 0.32),)),
        Part((_points(-0.78, -0.4, -1, -0.25, -0.76, -0.18),), "orange"),
        Part((_ellipse(-0.58, -0.36, 0.06, 0.06),), "black"),
        Part((_ellipse(0.1, 0.1, 0.38, 0.22),), "dark"),
        Part((_box(-0.05, 0.5, 0.0, 0.95),), "orange"),
        Part((_box(0.12, 0.5, 0.17, 0.95),), "orange"),
    ]


def _butterfly(_: np.random.Generator) -> list[Part]:
    wings = [
        Part((_ellipse(s * 0.5, y, 0.46, r),), p)
        for s in (-1, 1)
        for y, r, p in ((-0.35, 0.45, "main"), (0.42, 0.36, "dark"))
    ]
    return [*wings, Part((_ellipse(0, 0, 0.09, 0.65),), "black")]


def _umbrella(_: np.random.Generator) -> list[Part]:
    arc = np.linspace(np.pi, 2 * np.pi, 40)
    dome = np.concatenate(
        [np.stack([np.cos(arc), np.sin(arc)], 1), _points(0.67, -0.12, 0.33, 0, 0, -0.12, -0.33, 0, -0.67, -0.12)]
    )
    return [
        Part((_box(-0.04, -0.2, 0.04, 0.95),), "brown"),
        Part((dome,)),
        Part((_points(-0.33, 0, 0, -1, 0.33, 0, 0, -0.12),), "dark"),
    ]


def _balloon(_: np.random.Generator) -> list[Part]:
    string = _points(-0.02, 0.5, 0.03, 0.5, 0.08, 0.75, 0, 1, -0.04, 1, 0.03, 0.75)
    return [
        Part((string,), "grey"),
        Part((_ellipse(0, -0.3, 0.62, 0.72),)),
        Part((_points(-0.1, 0.52, 0, 0.38, 0.1, 0.52),), "dark"),
    ]


def _simple(*xy: float) -> Callable[[np.random.Generator], list[Part]]:
    return lambda _: [Part((_points(*xy),))]


NOUNS: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "circle": lambda _: [Part((_ellipse(0, 0, 1, 1),))],
    "ellipse": lambda _: [Part((_ellipse(0, 0, 1, 0.6),))],
    "square": _simple(-0.85, -0.85, 0.85, -0.85, 0.85, 0.85, -0.85, 0.85),
    "rectangle": _simple(-1, -0.55, 1, -0.55, 1, 0.55, -1, 0.55),
    "triangle": lambda _: _regular(3),
    "diamond": _simple(0, -1, 0.7, 0, 0, 1, -0.7, 0),
    "pentagon": lambda _: _regular(5),
    "hexagon": lambda _: _regular(6),
    "star": _star,
    "heart": _heart,
    "ring": lambda _: [Part((_ellipse(0, 0, 1, 1), _ellipse(0, 0, 0.55, 0.55)))],
    "moon": _crescent,
    "cross": _simple(
        -0.3, -1, 0.3, -1, 0.3, -0.3, 1, -0.3, 1, 0.3, 0.3, 0.3,
        0.3, 1, -0.3, 1, -0.3, 0.3, -1, 0.3, -1, -0.3, -0.3, -0.3,
    ),
    "arrow": _simple(-1, -0.3, 0.2, -0.3, 0.2, -0.8, 1, 0, 0.2, 0.8, 0.2, 0.3, -1, 0.3),
    "drop": lambda _: [Part((_polar(lambda t: 0.62 + 0.38 * _bump(t, 5)) + np.array([0, 0.15]),))],
    "leaf": lambda _: [
        Part((_polar(lambda t: 0.3 + 0.7 * np.cos(t) ** 2),)), Part((_box(-0.03, -0.8, 0.03, 1),), "dark")
    ],
    "flower": _flower, "cloud": _cloud, "house": _house, "tree": _tree, "fish": _fish, "cup": _cup, "bottle": _bottle,
    "car": _car, "boat": _boat, "mushroom": _mushroom, "apple": _apple, "cat": _cat, "person": _person,
    "astronaut": _astronaut, "bird": _bird, "butterfly": _butterfly, "umbrella": _umbrella, "balloon": _balloon,
}  # fmt: skip
# These look the same, or as good, any way round; the others have an up and a down, and are turned only a little.
TURNED = (
    "circle", "ellipse", "square", "rectangle", "triangle", "diamond", "pentagon", "hexagon", "star", "ring", "moon",
    "cross", "arrow", "drop", "leaf", "flower",
)  # fmt: skip
UPRIGHT = frozenset(NOUNS) - frozenset(TURNED)
