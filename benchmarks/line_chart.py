"""A line chart as SVG, for the docs: a few series over one axis, drawn without a library."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 760, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 28, 36, 46  # margins
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#7b4ea3")
TICKS = 5

Points = Sequence[tuple[float, float]]


def line_chart(
    series: Mapping[str, Points], *, title: str, x_label: str, y_label: str, legend_on_top: bool = False
) -> str:
    """Both axes begin at zero. Each series is drawn in the order of its points."""
    points = [point for line in series.values() for point in line]
    x_end, y_end = (_round_up(max(point[axis] for point in points)) for axis in (0, 1))

    def place(x: float, y: float) -> tuple[float, float]:
        across, down = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
        return round(LEFT + x / x_end * across, 1), round(TOP + (1 - y / y_end) * down, 1)

    parts = [_text(LEFT, 20, title, anchor="start", size=14)]
    for number in range(TICKS + 1):
        x, y = x_end * number / TICKS, y_end * number / TICKS
        parts.append(_line(place(0, y), place(x_end, y), "#ddd"))
        parts.append(_text(LEFT - 8, place(0, y)[1] + 4, f"{y:,.0f}", anchor="end"))
        parts.append(_text(place(x, 0)[0], HEIGHT - BOTTOM + 18, f"{x:,.0f}", anchor="middle"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, x_label, anchor="middle"))
    parts.append(_text(WIDTH - RIGHT, 20, y_label, anchor="end"))
    for number, (name, line) in enumerate(series.items()):
        colour = COLOURS[number % len(COLOURS)]
        path = " ".join(f"{x},{y}" for x, y in (place(*point) for point in line))
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        x, row = LEFT + 12 + 230 * (number % 3), number // 3
        y = TOP + 14 + 16 * row if legend_on_top else HEIGHT - BOTTOM - 12 - 16 * row
        parts.append(_line((x, y - 4), (x + 22, y - 4), colour, width=2))
        parts.append(_text(x + 28, y, name, anchor="start"))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="sans-serif"><rect width="100%" height="100%" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def stacked(charts: Sequence[str]) -> str:
    """Several charts in one picture, one below the other."""
    height = HEIGHT * len(charts)
    placed = [f'<g transform="translate(0 {HEIGHT * number})">\n{chart}</g>' for number, chart in enumerate(charts)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">\n'
        + "\n".join(placed)
        + "\n</svg>\n"
    )


def _round_up(value: float) -> float:
    """The next of 1, 2, 2.5, 4, 5, 8 and 10 times a power of ten, so that the ticks are round."""
    power = 1.0
    while power * 10 < value:
        power *= 10
    return next(power * step for step in (1, 2, 2.5, 4, 5, 8, 10) if power * step >= value)


def _text(x: float, y: float, text: str, *, anchor: str, size: int = 12) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}" text-anchor="{anchor}" fill="#333">{escape(text)}</text>'


def _line(begin: tuple[float, float], end: tuple[float, float], colour: str, *, width: int = 1) -> str:
    (x1, y1), (x2, y2) = begin, end
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="{colour}" stroke-width="{width}"/>'
