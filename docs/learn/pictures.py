"""Pictures of the walkthrough as small SVG files: bars, curves, strips, triangles.

Drawn here and not by a library, so that the same numbers give the same bytes everywhere. Colours
stand on light and dark pages alike.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

INK, LINE, PALE = "#7a8088", "#9aa0a6", "#4c8dd6"
COLOURS = ("#3b7dd8", "#d9822b", "#3a9b5c", "#b65fcf", "#c94f4f", "#8a8d91")
WIDTH = 720
FONT = 'font-family="system-ui, sans-serif" font-size="13"'


def svg(height: float, parts: Sequence[str], label: str) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" '
        f'role="img" aria-label="{escape(label)}" {FONT}>\n{body}\n</svg>\n'
    )


def text(x: float, y: float, words: str, *, anchor: str = "start", fill: str = INK) -> str:
    return (f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" fill="{fill}">{escape(words)}'
            "</text>")  # fmt: skip


def rect(x: float, y: float, w: float, h: float, fill: str, opacity: float = 1) -> str:
    seen = "" if opacity == 1 else f' fill-opacity="{opacity:.3g}"'
    return f'<rect x="{x:.6g}" y="{y:.6g}" width="{w:.6g}" height="{h:.6g}" fill="{fill}"{seen}/>'


def bars(rows: Sequence[tuple[str, float]], title: str, form: str = "{:,}", mark: str = "") -> str:
    """A bar for each (name, number), one beneath the other, `mark` in another colour."""
    most, left = max(n for _, n in rows), 150
    parts = [text(0, 16, title)]
    for i, (name, number) in enumerate(rows):
        y = 28 + 20 * i
        parts += [
            text(left - 8, y + 13, name, anchor="end"),
            rect(left, y, (WIDTH - left - 90) * number / most, 16,
                 COLOURS[1] if name == mark else COLOURS[0]),
            text(left + (WIDTH - left - 90) * number / most + 6, y + 13, form.format(number)),
        ]  # fmt: skip
    return svg(34 + 20 * len(rows), parts, title)


def columns(rows: Sequence[tuple[str, float]], title: str) -> str:
    """A narrow column for each (name, number), side by side, on a logarithmic height."""
    most = max(n for _, n in rows)
    step, height = (WIDTH - 10) / len(rows), 150
    parts = [text(0, 16, title)]
    for i, (name, number) in enumerate(rows):
        tall = height * math.log(1 + number) / math.log(1 + most)
        x = 5 + i * step
        parts += [rect(x, 30 + height - tall, step * 0.8, tall, COLOURS[0]),
                  text(x + step * 0.4, 46 + height, name, anchor="middle")]  # fmt: skip
    return svg(54 + height, parts, title)


def strip(cells: Sequence[tuple[str, str]], title: str) -> str:
    """Cells side by side, a text above and one below each: tokens over their ids."""
    step = min(60.0, (WIDTH - 10) / len(cells))
    parts = [text(0, 16, title)]
    for i, (above, below) in enumerate(cells):
        x = 5 + i * step
        parts += [rect(x, 28, step - 3, 26, COLOURS[i % 2], 0.25),
                  text(x + (step - 3) / 2, 46, above, anchor="middle"),
                  text(x + (step - 3) / 2, 72, below, anchor="middle")]  # fmt: skip
    return svg(80, parts, title)


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]], title: str, xlabel: str,
    levels: Mapping[str, float] | None = None, low: float | None = None, high: float | None = None,
    mark: tuple[float, str] | None = None,
) -> str:  # fmt: skip
    """Lines through points by name, horizontal `levels`, and a vertical `mark`."""
    levels = levels or {}
    points = [point for line in lines.values() for point in line]
    x1 = max(x for x, _ in points)
    ys = [y for _, y in points] + list(levels.values())
    y0 = math.floor(min(ys) * 10) / 10 if low is None else low
    y1 = max(ys) if high is None else high
    left, top, wide, tall = 45, 30, WIDTH - 220, 260

    def at(x: float, y: float) -> tuple[float, float]:
        y = min(max(y, y0), y1)
        return left + wide * x / x1, top + tall * (y1 - y) / (y1 - y0)

    parts = [text(0, 16, title), text(left + wide, top + tall + 32, xlabel, anchor="end")]
    for i in range(6):
        y = y0 + (y1 - y0) * i / 5
        py = at(0, y)[1]
        parts += [f'<path d="M{left} {py:.5g}h{wide}" stroke="{LINE}" stroke-opacity=".3"/>',
                  text(left - 6, py + 4, f"{y:.2f}", anchor="end")]  # fmt: skip
        x = x1 * i / 5
        parts.append(text(at(x, y0)[0], top + tall + 16, f"{x:,.0f}", anchor="middle"))
    for name, level in levels.items():
        py = at(0, level)[1]
        parts += [f'<path d="M{left} {py:.5g}h{wide}" stroke="{INK}" stroke-dasharray="4 4"/>',
                  text(left + wide + 6, py + 4, f"{name} {level:.2f}")]  # fmt: skip
    if mark:
        px = at(mark[0], y0)[0]
        parts += [f'<path d="M{px:.5g} {top}v{tall}" stroke="{COLOURS[2]}" stroke-width="2"/>',
                  text(px + 5, top + 12, mark[1], fill=COLOURS[2])]  # fmt: skip
    taken: list[float] = [at(0, level)[1] for level in levels.values()]
    for i, (name, line) in enumerate(lines.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = "L".join(f"{px:.5g} {py:.5g}" for px, py in (at(x, y) for x, y in line))
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        y = at(0, line[-1][1])[1]
        while any(abs(y - other) < 15 for other in taken):
            y += 4
        taken.append(y)
        parts.append(text(left + wide + 6, y + 4, f"{name} {line[-1][1]:.2f}", fill=colour))
    return svg(top + tall + 45, parts, title)


def triangle(weights: Sequence[Sequence[float]], names: Sequence[str], title: str) -> str:
    """Attention as squares: rows are the tokens that look, columns what they look at."""
    n = len(names)
    size = min(26.0, (WIDTH - 60) / n)
    parts = [text(0, 16, title)]
    for i, row in enumerate(weights):
        parts.append(text(40, 52 + i * size + size * 0.65, names[i], anchor="end"))
        parts.append(text(48 + i * size + size / 2, 44, names[i], anchor="middle"))
        parts += [
            rect(48 + j * size, 50 + i * size, size - 1, size - 1, PALE, max(0.06, w))
            for j, w in enumerate(row[: i + 1])
        ]
    return svg(60 + n * size, parts, title)


def parts(cells: Sequence[tuple[str, float]], title: str) -> str:
    """One bar cut into (name, number) pieces."""
    total, x = sum(n for _, n in cells), 0.0
    drawn = [text(0, 16, title)]
    for i, (name, number) in enumerate(cells):
        wide = WIDTH * number / total
        drawn.append(rect(x, 28, max(1, wide - 2), 34, COLOURS[i % len(COLOURS)], 0.55))
        drawn.append(text(min(x + 6, WIDTH - 150), 80 + 18 * (i % 2), f"{name} {number:,}"))
        x += wide
    return svg(106, drawn, title)


def way(steps: Sequence[str], title: str) -> str:
    """Boxes one after another with arrows."""
    n = len(steps)
    wide = (WIDTH - 24 * (n - 1)) / n
    drawn = [text(0, 16, title)]
    for i, step in enumerate(steps):
        x = i * (wide + 24)
        drawn.append(rect(x, 30, wide, 56, COLOURS[i % len(COLOURS)], 0.25))
        for k, line in enumerate(step.split("\n")):
            drawn.append(text(x + wide / 2, 53 + 18 * k, line, anchor="middle"))
        if i < n - 1:
            drawn.append(text(x + wide + 12, 62, "\u2192", anchor="middle"))
    return svg(94, drawn, title)


FUNCTIONS: dict[str, Any] = {
    "bars": bars, "columns": columns, "strip": strip, "curves": curves, "triangle": triangle,
    "parts": parts, "way": way,
}  # fmt: skip
