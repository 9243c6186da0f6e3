"""Line charts as SVG, with logarithmic axes."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from html import escape

from benchmarks.results import figure

Points = list[tuple[float, float]]

_WIDTH, _HEIGHT, _LEFT, _TOP, _RIGHT, _BOTTOM = 640, 360, 70, 40, 110, 50
_COLOURS = ["#0b62a4", "#d1495b", "#3c8d40", "#8a6d00", "#6a4c93"]
_STYLE = "font: 12px sans-serif; fill: #222"


@dataclass
class Plot:
    """Lines by name; `x` and `y` are the titles of the axes, with units."""

    key: str
    title: str
    x: str
    y: str
    lines: dict[str, Points] = field(default_factory=dict)


def svg(plot: Plot) -> str:
    """Return `plot` as an SVG document."""
    points = [point for line in plot.lines.values() for point in line]
    across = _Axis([x for x, _ in points], _LEFT, _WIDTH - _RIGHT)
    up = _Axis([y for _, y in points], _HEIGHT - _BOTTOM, _TOP)
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(middle, 22, plot.title, "middle"),
        _text(middle, _HEIGHT - 10, plot.x, "middle"),
        _text(8, _TOP - 12, plot.y, "start"),
        *(_tick_across(across, value) for value in across.ticks()),
        *(_tick_up(up, value) for value in up.ticks()),
    ]
    for place, (name, line) in enumerate(plot.lines.items()):
        parts += _line(name, [(across(x), up(y)) for x, y in line], place)
    return "\n".join([*parts, "</svg>", ""])


class _Axis:
    """Maps values to pixels, on a logarithmic scale between powers of ten."""

    def __init__(self, values: list[float], start: float, stop: float) -> None:
        self._low = math.floor(math.log10(min(values)))
        self._high = max(math.ceil(math.log10(max(values))), self._low + 1)
        self._start, self._span = start, stop - start

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self._low) / (self._high - self._low)
        return round(self._start + share * self._span, 1)

    def ticks(self) -> list[float]:
        return [10.0**power for power in range(self._low, self._high + 1)]


def _line(name: str, points: Points, place: int) -> list[str]:
    colour = _COLOURS[place % len(_COLOURS)]
    path = " ".join(f"{x},{y}" for x, y in points)
    dots = [f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in points]
    stroke = f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'
    x, y = _WIDTH - _RIGHT + 12, _TOP + 10 + 18 * place
    key = f'<rect x="{x}" y="{y - 8}" width="10" height="10" fill="{colour}"/>'
    return [stroke, *dots, key, _text(x + 15, y + 1, name, "start")]


def _tick_across(axis: _Axis, value: float) -> str:
    x = axis(value)
    rule = f'<line x1="{x}" x2="{x}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}" stroke="#ddd"/>'
    return rule + _text(x, _HEIGHT - _BOTTOM + 16, figure(value), "middle")


def _tick_up(axis: _Axis, value: float) -> str:
    y = axis(value)
    rule = f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}" stroke="#ddd"/>'
    return rule + _text(_LEFT - 6, y + 4, figure(value), "end")


def _text(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" style="{_STYLE}" text-anchor="{anchor}">{escape(words)}</text>'
