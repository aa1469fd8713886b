"""Contact sheets: held-out scenes and test photographs, each beside its edges and what the model made of them."""

import argparse
from pathlib import Path

import cv2
import numpy as np
from data import canny, held_out
from render import DiffusersRenderer, Renderer, Request
from testset import PROMPTS, TEST_PHOTOGRAPHS, photograph

CELL = 224


def cell(image: np.ndarray, label: str) -> np.ndarray:
    """A picture fitted in a square with a caption below: uint8 [CELL + 26, CELL, 3]."""
    scale = CELL / max(image.shape[:2])
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    tile = np.full((CELL + 26, CELL, 3), 255, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small[:CELL, :CELL]
    for line in range(2):
        cv2.putText(
            tile,
            label[line * 40 : line * 40 + 40],
            (2, CELL + 10 + 12 * line),
            cv2.FONT_HERSHEY_SIMPLEX,
            0.3,
            (0, 0, 0),
            1,
            cv2.LINE_AA,
        )
    return tile


def grid(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Rows of cells to one picture."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows], axis=0)


def _edge_picture(edges: np.ndarray) -> np.ndarray:
    return np.repeat(edges[..., None].astype(np.uint8) * 255, 3, 2)


def scene_rows(renderer: Renderer, count: int) -> list[list[np.ndarray]]:
    """A row a scene: the scene, its edges, then strength 1 at scale 9 and 4, strength 0, guess mode."""
    scenes = held_out(count)
    base = [Request(s.caption, s.image, seed=i) for i, s in enumerate(scenes)]
    columns = {
        "strength 1, scale 9": renderer.render(base),
        "scale 4": renderer.render([r.but(scale=4.0) for r in base]),
        "strength 0": renderer.render([r.but(strength=0.0) for r in base]),
        "guess mode, scale 4": renderer.render([r.but(guess=True, scale=4.0, prompt="a picture") for r in base]),
    }
    rows = []
    for i, scene in enumerate(scenes):
        first = [cell(scene.image, scene.caption), cell(_edge_picture(canny(scene.image)), "edges")]
        rows.append(first + [cell(images[i], name) for name, images in columns.items()])
    return rows


def photo_rows(renderer: Renderer) -> list[list[np.ndarray]]:
    """A row a photograph: itself, its edges, its four prompts."""
    rows = []
    for name in TEST_PHOTOGRAPHS:
        image = photograph(name)
        edges = canny(image)
        drawn = renderer.render([Request(prompt, image, seed=7) for prompt in PROMPTS[name]])
        rows.append(
            [
                cell(image, name),
                cell(_edge_picture(edges), "edges"),
                *(cell(d, p) for d, p in zip(drawn, PROMPTS[name], strict=True)),
            ]
        )
    return rows


def renderer(weights: Path, kept: Path | None) -> Renderer:
    """diffusers on the weights, or the product on an engine set of them."""
    if kept is None:
        return DiffusersRenderer(weights)
    from product import EngineRenderer  # only here: a machine that trains needs no worker

    return EngineRenderer(kept / "engine-set", kept)


def main() -> None:
    """Draw the scenes and photographs, and write the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", default="demo-model-weights")
    parser.add_argument("--kept", type=Path, help="evaluate.py's folder: draw with its engine set, and keep pictures")
    parser.add_argument("--out", default="sheet.jpg")
    parser.add_argument("--scenes", type=int, default=10)
    options = parser.parse_args()
    chosen = renderer(Path(options.weights), options.kept)
    sheet = grid(photo_rows(chosen) + scene_rows(chosen, options.scenes))
    cv2.imwrite(options.out, sheet[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
