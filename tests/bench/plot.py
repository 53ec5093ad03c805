# SPDX-License-Identifier: GPL-3.0-or-later
"""A line in a coordinate system, as SVG: plain text that a reviewer can read and a repository can keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from math import log10

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 44, 52


@dataclass(frozen=True)
class Plot:
    """points: (x, y), x ascending. logarithmic: the scale of x; y begins at zero always."""

    title: str
    x_label: str
    y_label: str
    points: Sequence[tuple[float, float]]
    logarithmic: bool = False

    def svg(self) -> str:
        """The picture, with light and dark colours by the reader's preference."""
        top = _round_up(max(y for _x, y in self.points))
        to_x, to_y = self._x_scale(), _scale(0, top, HEIGHT - BOTTOM, TOP)
        parts = [_HEAD.format(title=escape(self.title))]
        for step in range(5):
            value = top * step / 4
            y = to_y(value)
            parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
            parts.append(_text(LEFT - 8, y + 4, f"{value:g}", "end"))
        for x, _y in self.points:
            parts.append(_text(to_x(x), HEIGHT - BOTTOM + 18, f"{x:,g}"))
        line = " ".join(f"{to_x(x):.1f},{to_y(y):.1f}" for x, y in self.points)
        parts.append(f'<polyline class="line" points="{line}"/>')
        for x, y in self.points:
            parts.append(f'<circle class="dot" cx="{to_x(x):.1f}" cy="{to_y(y):.1f}" r="4"/>')
            parts.append(_text(to_x(x), to_y(y) - 10, f"{y:.2f}"))
        parts.append(_text(LEFT, 22, self.title, "start", "title"))
        parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, self.x_label))
        parts.append(_text(WIDTH - RIGHT, 22, self.y_label, "end"))
        return "\n".join([*parts, "</svg>", ""])

    def _x_scale(self) -> Callable[[float], float]:
        first, last = self.points[0][0], self.points[-1][0]
        if not self.logarithmic:
            return _scale(0, last, LEFT + 12, WIDTH - RIGHT - 16)
        linear = _scale(log10(first), log10(last), LEFT + 12, WIDTH - RIGHT - 16)
        return lambda x: linear(log10(x))


def _scale(start: float, end: float, low: float, high: float) -> Callable[[float], float]:
    return lambda value: low + (value - start) / (end - start) * (high - low)


def _round_up(value: float) -> float:
    """The next of 1, 2, 4, 6, 8 and 10 times a power of ten."""
    power = 10.0 ** int(log10(value) // 1)
    return next(factor * power for factor in (1, 2, 4, 6, 8, 10) if factor * power >= value)


def _text(x: float, y: float, text: str, anchor: str = "middle", kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


_HEAD = f"""<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">
<title>{{title}}</title>
<style>
.ground {{{{ fill: #ffffff }}}} .grid {{{{ stroke: #d5dbe3 }}}}
.label {{{{ font: 12px sans-serif; fill: #4a5568 }}}}
.title {{{{ font: bold 14px sans-serif; fill: #1a202c }}}}
.line {{{{ fill: none; stroke: #2463a8; stroke-width: 2 }}}} .dot {{{{ fill: #2463a8 }}}}
@media (prefers-color-scheme: dark) {{{{
.ground {{{{ fill: #14181f }}}} .grid {{{{ stroke: #333c48 }}}} .label {{{{ fill: #a8b3c2 }}}}
.title {{{{ fill: #edf2f7 }}}} .line {{{{ stroke: #7fb2e6 }}}} .dot {{{{ fill: #7fb2e6 }}}}
}}}}
</style>
<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>"""
