"""The picture in README: input, edges and result of a few rows, put together from what `make demo` rendered.

make demo
python -m tools.demo_picture              # writes docs/demo.webp
python -m tools.demo_picture --rows 1 5 8 10 --out docs/demo.webp
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from PIL import Image, ImageDraw, ImageFont, ImageOps

from tools import ROOT

RESULTS = ROOT / "demo-output" / "results.jsonl"
PICTURE = ROOT / "docs" / "demo.webp"
ROWS = (1, 5, 8, 10)
LABELS = ("input", "edges", "result")

TILE = 208  # pixels, also the width of a caption
GAP = 6
LABEL_WIDTH = 58
CAPTION_HEIGHT = 40
FONT_SIZE = 14
QUALITY = 82


@dataclass(frozen=True)
class Row:
    """What the picture shows of one row of the CSV."""

    prompt: str
    pictures: tuple[Path, Path, Path]  # input, edges, first result


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the picture; exit code 1 if the demo has not run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=list(ROWS), help="rows of examples/jobs.csv to show")
    parser.add_argument("--out", type=Path, default=PICTURE, help="the file to write (default: docs/demo.webp)")
    options = parser.parse_args(arguments)
    if not RESULTS.is_file():
        print(f"{RESULTS} is missing: run `make demo` first", file=sys.stderr)
        return 1
    done = finished_rows(RESULTS.read_text(encoding="utf-8"))
    missing = [number for number in options.rows if number not in done]
    if missing:
        print(f"no finished row {missing[0]} in {RESULTS}; there are {sorted(done)}", file=sys.stderr)
        return 1
    compose([done[number] for number in options.rows]).save(options.out, quality=QUALITY, method=6)
    print(options.out)
    return 0


def finished_rows(results: str) -> dict[int, Row]:
    """Row number -> row, for every finished job among JSON lines of `producer results`."""
    records = [json.loads(line) for line in results.splitlines()]
    return {
        record["row"]: Row(
            record["prompt"], (path_of(record["image"]), path_of(record["canny"]), path_of(record["samples"][0]))
        )
        for record in records
        if record["state"] == "done"
    }


def path_of(uri: str) -> Path:
    """The file that a `file://` URI names."""
    return Path(unquote(urlsplit(uri).path))


def compose(rows: Sequence[Row]) -> Image.Image:
    """One column a row of the CSV: its input, edges, result and prompt, from top to bottom."""
    font = ImageFont.load_default(FONT_SIZE)
    height = len(LABELS) * (TILE + GAP) + CAPTION_HEIGHT
    sheet = Image.new("RGB", (LABEL_WIDTH + len(rows) * (TILE + GAP) - GAP, height), "white")
    draw = ImageDraw.Draw(sheet)
    for line, label in enumerate(LABELS):
        draw.text((0, line * (TILE + GAP) + TILE // 2), label, fill="dimgray", font=font, anchor="lm")
    for column, row in enumerate(rows):
        left = LABEL_WIDTH + column * (TILE + GAP)
        for line, path in enumerate(row.pictures):
            sheet.paste(square(path), (left, line * (TILE + GAP)))
        caption = wrapped(row.prompt, draw, font)
        draw.multiline_text((left, height - CAPTION_HEIGHT), caption, fill="black", font=font)
    return sheet


def square(path: Path) -> Image.Image:
    """The middle of a picture, TILE pixels wide and high."""
    with Image.open(path) as picture:
        return ImageOps.fit(picture.convert("RGB"), (TILE, TILE), Image.Resampling.LANCZOS)


def wrapped(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Text in lines that fit below a tile."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font=font) <= TILE:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
