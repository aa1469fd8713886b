"""Scenes made by a program, each with a caption that says what is in it."""

from dataclasses import dataclass, field

import cv2
import numpy as np
import styles
from palette import NAMES, PALETTE, SYNONYMS, shade
from shapes import NOUNS, UPRIGHT, Part
from textures import TEXTURES, Size, clouds, lighting

SKIN = (224, 172, 138)


@dataclass(frozen=True)
class Object:
    """One named thing in a scene; mask bool [H, W] is where its main colour shows, well inside its rim."""

    noun: str
    colour: str
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """image uint8 [H, W, 3]; plain: the same picture before its style; objects: none where a style hides colours."""

    image: np.ndarray
    plain: np.ndarray
    caption: str
    style: str | None = None
    objects: tuple[Object, ...] = field(default=())


def _word(rng: np.random.Generator, colour: str) -> str:
    return SYNONYMS[colour] if colour in SYNONYMS and rng.random() < 0.15 else colour


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def _fill(size: Size, contours: list[np.ndarray]) -> np.ndarray:
    mask = np.zeros(size, np.uint8)
    cv2.fillPoly(mask, [np.round(c * 16).astype(np.int32) for c in contours], 255, cv2.LINE_AA, 4)
    return mask


def _paint(rng: np.random.Generator, part: Part, main: np.ndarray) -> np.ndarray:
    if part.paint == "main":
        return main
    if part.paint == "dark":
        return main * 0.6
    if part.paint == "light":
        return main * 0.35 + 255 * 0.6
    return np.array(SKIN, np.float32) if part.paint == "skin" else shade(rng, part.paint)


class Painter:
    """A canvas that objects are drawn on, one over the other."""

    def __init__(self, rng: np.random.Generator, size: Size, background: np.ndarray) -> None:
        self.rng, self.size, self.canvas = rng, size, background
        self.owner = np.full(size, -1, np.int8)  # which object shows its main colour here

    def add(
        self, index: int, noun: str, *, colour: str, material: str | None, place: tuple[float, float, float]
    ) -> None:
        """Draws one noun; place is centre x, centre y and radius in pixels."""
        rng, (x, y, radius) = self.rng, place
        turn = rng.uniform(-0.25, 0.25) if noun in UPRIGHT else rng.uniform(-np.pi, np.pi)
        matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) * radius
        matrix = matrix * [[rng.uniform(0.85, 1.1)], [rng.uniform(0.85, 1.1)]]
        if noun in UPRIGHT and rng.random() < 0.5:
            matrix = matrix * [[-1, 1]]
        surface = lighting(rng, self.size) if rng.random() < 0.7 else np.ones(self.size, np.float32)
        if material:
            surface = surface * TEXTURES[material](rng, self.size)
        main, outline = shade(rng, colour), rng.random() < 0.3
        ink = rng.choice([15.0, 235.0], p=[0.8, 0.2])
        for part in NOUNS[noun](rng):
            contours = [c @ matrix.T + [x, y] for c in part.contours]
            self._part(index, part, contours, paint=_paint(rng, part, main), surface=surface)
            if outline:
                drawn = [np.round(c * 16).astype(np.int32) for c in contours]
                cv2.polylines(self.canvas, drawn, True, (ink, ink, ink), max(1, round(radius / 40)), cv2.LINE_AA, 4)

    def _part(
        self, index: int, part: Part, contours: list[np.ndarray], *, paint: np.ndarray, surface: np.ndarray
    ) -> None:
        points = np.concatenate(contours)
        (x0, y0), (x1, y1) = np.maximum(points.min(0) - 2, 0).astype(int), (points.max(0) + 3).astype(int)
        x1, y1 = min(x1, self.size[1]), min(y1, self.size[0])
        if x1 <= x0 or y1 <= y0:
            return
        mask = _fill((y1 - y0, x1 - x0), [c - [x0, y0] for c in contours])
        alpha = mask[..., None].astype(np.float32) / 255
        box = (slice(y0, y1), slice(x0, x1))
        self.canvas[box] += alpha * (paint * surface[box][..., None] - self.canvas[box])
        self.owner[box][mask > 127] = index if part.paint == "main" else -1

    def mask(self, index: int) -> np.ndarray:
        """Where an object's main colour shows, eroded by three pixels."""
        return cv2.erode((self.owner == index).astype(np.uint8), np.ones((7, 7), np.uint8)).astype(bool)


BACKDROPS = {"plain": 0.34, "gradient": 0.16, "textured": 0.16, "floor": 0.14, "cloudy": 0.12, "lit": 0.08}
SIMPLE_BACKDROPS = {"plain": 0.7, "floor": 0.15, "lit": 0.15}


def background(
    rng: np.random.Generator, size: Size, avoid: tuple[str, ...], shares: dict[str, float] = BACKDROPS
) -> tuple[np.ndarray, str]:
    """A backdrop in colours other than those to avoid: float32 [H, W, 3] and its phrase."""
    first, second = (str(c) for c in rng.choice([n for n in NAMES if n not in avoid], 2, replace=False))
    a, b = shade(rng, first), shade(rng, second)
    t = np.linspace(0, 1, size[0], dtype=np.float32)[:, None, None]
    full = np.ones((*size, 3), np.float32)
    words = _word(rng, first), _word(rng, second)
    kind = rng.choice(list(shares), p=list(shares.values()))
    if kind == "gradient":
        return a * (1 - t) + b * t * full, f"on a gradient background from {words[0]} to {words[1]}"
    if kind == "textured":
        material = str(rng.choice(list(TEXTURES)))
        texture = 1 + (TEXTURES[material](rng, size) - 1) * rng.uniform(0.3, 0.8)
        return a * texture[..., None], f"on {_article(words[0])} {material} background"
    if kind == "floor":
        floor = (t > rng.uniform(0.55, 0.8)) * full
        return a * (1 - floor) + b * floor, f"on {_article(words[1])} table, {words[0]} wall"
    if kind == "cloudy":
        mix = np.clip(clouds(rng, size, cells=2) * 0.6 + 0.4, 0, 1)[..., None]
        return a * (1 - mix) + b * mix, f"on a cloudy {words[0]} and {words[1]} background"
    if kind == "lit":
        return a * lighting(rng, size)[..., None], f"on a softly lit {words[0]} background"
    return a * full, f"on {_article(words[0])} background"


def _places(rng: np.random.Generator, size: Size, count: int) -> list[tuple[float, float, float]]:
    height, width = size
    if count == 1:
        radius = min(size) * rng.uniform(0.22, 0.44)
        return [(width * 0.5 + rng.normal(0, 0.07) * width, height * 0.5 + rng.normal(0, 0.06) * height, radius)]
    wide = width >= height
    places = []
    for i in range(count):
        along, across = (i + 0.5) / count + rng.normal(0, 0.03), 0.5 + rng.normal(0, 0.1)
        radius = min(max(size) / count, min(size)) * rng.uniform(0.34, 0.52)
        places.append((width * along, height * across, radius) if wide else (width * across, height * along, radius))
    return places


def _join(rng: np.random.Generator, names: list[str], size: Size) -> str:
    if len(names) == 2 and rng.random() < 0.5:
        return f"{names[0]} {'left of' if size[1] >= size[0] else 'above'} {names[1]}"
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1]


def objects(
    rng: np.random.Generator, size: Size, *, simple: bool = False
) -> tuple[np.ndarray, str, tuple[Object, ...]]:
    """One to three named, coloured things before a backdrop; simple: of no material, before a quiet one."""
    count = int(rng.choice([1, 2, 3], p=[0.45, 0.35, 0.2] if simple else [0.62, 0.28, 0.10]))
    colours = [str(c) for c in rng.choice(NAMES, count, replace=False)]
    nouns = [str(n) for n in rng.choice(list(NOUNS), count, replace=False)]
    backdrop, where = background(rng, size, tuple(colours), SIMPLE_BACKDROPS if simple else BACKDROPS)
    painter, names = Painter(rng, size, backdrop.copy()), []
    for i, (noun, colour, place) in enumerate(zip(nouns, colours, _places(rng, size, count), strict=True)):
        material = str(rng.choice(list(TEXTURES))) if not simple and rng.random() < 0.35 else None
        painter.add(i, noun, colour=colour, material=material, place=place)
        words = [_word(rng, colour), *([material] if material else []), noun]
        names.append(_article(" ".join(words)))
    masks = [painter.mask(i) for i in range(count)]
    found = tuple(Object(n, c, m) for n, c, m in zip(nouns, colours, masks, strict=True) if m.sum() >= 150)
    return painter.canvas, f"{_join(rng, names, size)} {where}", found


def leaves(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, str]:
    """Overlapping shapes of all sizes: the statistics of edges in photographs, without the photograph."""
    colours = [str(c) for c in rng.choice(NAMES, int(rng.integers(1, 4)), replace=False)]
    canvas = np.ones((*size, 3), np.float32) * shade(rng, colours[0])
    kinds = [str(k) for k in rng.choice(list(NOUNS)[:16], int(rng.integers(1, 4)), replace=False)]
    painter = Painter(rng, size, canvas)
    for _ in range(int(rng.integers(12, 70))):
        radius = min(min(size) * 0.5, 7.0 / rng.uniform(0.04, 1.0) ** 0.9)
        place = (rng.uniform(0, size[1]), rng.uniform(0, size[0]), radius)
        colour = str(rng.choice(colours))
        main = shade(rng, colour, spread=28) * rng.uniform(0.6, 1.25)
        part = NOUNS[str(rng.choice(kinds))](rng)[0]
        turn = rng.uniform(-np.pi, np.pi)
        matrix = (
            np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
            * radius
            * [[rng.uniform(0.5, 1)], [1.0]]
        )
        contours = [c @ matrix.T + place[:2] for c in part.contours]
        painter._part(0, part, contours, paint=main, surface=np.ones(size, np.float32))
    if rng.random() < 0.5:
        canvas *= TEXTURES[str(rng.choice(["fuzzy", "furry", "stone", "marble"]))](rng, size)[..., None]
    canvas *= lighting(rng, size)[..., None]
    head = rng.choice(["an abstract pattern of", "many", "overlapping", "a pile of"])
    return canvas, f"{head} {' and '.join(_word(rng, c) for c in colours)} {' and '.join(kinds)}s"


def curves(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, str]:
    """Smooth lines, thin and thick, over a backdrop."""
    colour, other = (str(c) for c in rng.choice(NAMES, 2, replace=False))
    canvas, where = background(rng, size, (colour, other))
    canvas = np.ascontiguousarray(canvas)
    t = np.linspace(0, 1, 60)
    thick = int(rng.integers(1, 9))
    for _ in range(int(rng.integers(3, 16))):
        knots = rng.uniform(-0.1, 1.1, (4, 2)) * size[::-1]
        basis = np.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3], 1)
        line = np.round(basis @ knots * 16).astype(np.int32)
        paint = [float(v) for v in shade(rng, str(rng.choice([colour, other])))]
        cv2.polylines(canvas, [line], False, paint, thick, cv2.LINE_AA, 4)
    kind = "thin" if thick < 4 else "thick"
    return canvas, f"{kind} curved {_word(rng, colour)} and {_word(rng, other)} lines {where}"


def mosaic(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, str]:
    """Cells around random points, as in stained glass."""
    colours = [str(c) for c in rng.choice(NAMES, int(rng.integers(2, 4)), replace=False)]
    seeds = rng.uniform(0, 1, (int(rng.integers(10, 60)), 2)).astype(np.float32) * np.array(size, np.float32)
    y, x = np.mgrid[0 : size[0] : 2, 0 : size[1] : 2].astype(np.float32)
    nearest = np.argmin((y[..., None] - seeds[:, 0]) ** 2 + (x[..., None] - seeds[:, 1]) ** 2, axis=2)
    paints = np.stack([shade(rng, str(rng.choice(colours)), spread=18) for _ in seeds])
    canvas = cv2.resize(paints[nearest], size[::-1], interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(nearest.astype(np.float32), size[::-1], interpolation=cv2.INTER_NEAREST)
    if rng.random() < 0.6:
        lead = cv2.morphologyEx(label, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        canvas[lead] = 20
    return canvas * lighting(rng, size)[..., None], f"stained glass in {', '.join(_word(rng, c) for c in colours)}"


def landscape(rng: np.random.Generator, size: Size) -> tuple[np.ndarray, str]:
    """Hills one behind the other under a sky."""
    sky, hill = (str(c) for c in rng.choice(NAMES, 2, replace=False))
    height, width = size
    t = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    canvas = np.ascontiguousarray((shade(rng, sky) * (1 - t * 0.3) + 255 * t * 0.3) * np.ones((*size, 3), np.float32))
    extra = ""
    if rng.random() < 0.5:
        ball = str(rng.choice(["yellow", "orange", "white", "red"]))
        centre = (int(rng.uniform(0.15, 0.85) * width), int(rng.uniform(0.1, 0.4) * height))
        cv2.circle(
            canvas,
            centre,
            int(min(size) * rng.uniform(0.06, 0.14)),
            [float(v) for v in shade(rng, ball)],
            -1,
            cv2.LINE_AA,
        )
        extra = f", {_article(ball)} sun"
    layers = int(rng.integers(2, 5))
    for i in range(layers):
        ridge = clouds(rng, (2, width), cells=int(rng.integers(2, 5)))[0] * 0.09
        ridge = (0.42 + 0.5 * i / layers + ridge) * height
        inside = np.clip(np.arange(height)[:, None] - ridge[None], 0, 1)[..., None].astype(np.float32)
        paint = shade(rng, hill) * (1.25 - 0.5 * (i + 1) / layers)
        texture = TEXTURES[str(rng.choice(["fuzzy", "grassy", "stone", "furry"]))](rng, size)[..., None]
        canvas += inside * (paint * (1 + (texture - 1) * 0.5) - canvas)
    return canvas, f"a landscape of {_word(rng, hill)} hills under {_article(_word(rng, sky))} sky{extra}"


def _finish(picture: np.ndarray) -> np.ndarray:
    finished: np.ndarray = np.clip(picture, 0, 255).astype(np.uint8)
    return finished


def styled(rng: np.random.Generator, picture: np.ndarray, caption: str, *, names: tuple[str | None, ...]) -> Scene:
    """Applies one of the named styles (None: none) and says so in the caption, before or after the rest."""
    style = names[int(rng.integers(len(names)))]
    plain = _finish(picture)
    if style is None:
        return Scene(plain, plain, caption)
    picture, phrase = styles.apply(rng, plain.astype(np.float32), style)
    caption = f"{phrase}, {caption}" if rng.random() < 0.35 else f"{caption}, {phrase}"
    return Scene(_finish(picture), plain, caption, style)


OBJECT_STYLES = (None,) * 11 + tuple(styles.STYLES) + ("tones",)


def object_scene(rng: np.random.Generator, size: Size) -> Scene:
    """A scene of named objects, and their masks where the style leaves colours as they were named."""
    picture, caption, found = objects(rng, size)
    scene = styled(rng, picture, caption, names=OBJECT_STYLES)
    keeps = scene.style is None or (scene.style != "tones" and styles.STYLES[scene.style][2])
    return Scene(scene.image, scene.plain, scene.caption, scene.style, found if keeps else ())


def simple_scene(rng: np.random.Generator, size: Size) -> Scene:
    """Things in plain colours: which words colour which region is learnt here, and holds elsewhere."""
    picture, caption, found = objects(rng, size, simple=True)
    plain = _finish(picture)
    return Scene(plain, plain, caption, None, found)


def abstract_scene(rng: np.random.Generator, size: Size) -> Scene:
    """Anything without a single named object."""
    maker = (leaves, leaves, curves, mosaic, landscape)[int(rng.integers(5))]
    picture, caption = maker(rng, size)
    return styled(rng, picture, caption, names=(None,) * 8 + tuple(styles.STYLES) + ("tones",) * 2)


__all__ = ["PALETTE", "Object", "Scene", "abstract_scene", "object_scene", "simple_scene", "styled"]
