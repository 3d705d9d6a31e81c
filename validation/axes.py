"""One plot of the HTML report as shapes in a view box, and the scales that place them.

Plots are small and hand-made so that they take the page's colours, light and dark, and its font.
Lengths are in units of the view box, y downwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

WIDTH, HEIGHT = 420.0, 270.0
LEFT, RIGHT, TOP, BOTTOM = 54.0, 12.0, 12.0, 46.0
# Different in shape too, for those who cannot tell the colours apart.
SHAPES = ("circle", "square", "triangle", "diamond")


@dataclass(kw_only=True)
class Plot:
    """One plot; ``series`` counts the variants, which have the same colour in every plot.

    Attributes:
        key: Part of the ids of its elements.
        title: What it shows.
        description: The same in words, for those who do not see it.
        x_label: Of the horizontal axis.
        y_label: Of the vertical axis; empty draws none.
        legend: Variant -> its series; empty where marks name themselves.
        height: Of the view box.
        x_ticks: Place and text.
        y_ticks: Place and text.
        lines: Dicts of ``series`` and ``points``.
        marks: Dicts of ``series``, ``shape``, ``x``, ``y`` and ``hollow``.
        rules: Dicts of ``x``, ``y1``, ``y2`` and ``kind``: ``zero``, ``margin`` or ``end``.
        texts: Dicts of ``x``, ``y`` and ``text``.
    """

    key: str
    title: str
    description: str
    x_label: str
    y_label: str = ""
    legend: dict[str, int] = field(default_factory=dict)
    height: float = HEIGHT
    x_ticks: list[tuple[float, str]] = field(default_factory=list)
    y_ticks: list[tuple[float, str]] = field(default_factory=list)
    lines: list[dict[str, Any]] = field(default_factory=list)
    marks: list[dict[str, Any]] = field(default_factory=list)
    rules: list[dict[str, Any]] = field(default_factory=list)
    texts: list[dict[str, Any]] = field(default_factory=list)

    width: float = WIDTH
    left: float = LEFT
    right: float = WIDTH - RIGHT
    top: float = TOP

    @property
    def bottom(self) -> float:
        """Where the horizontal axis lies."""
        return self.height - BOTTOM


Scale = Callable[[float], float]


def linear(
    plot: Plot, low: float, high: float, *, across: bool = False
) -> tuple[Scale, list[tuple[float, str]]]:
    """Return a scale that covers the values with round ends, and its ticks."""
    span = (high - low) or max(abs(high), 1.0) * 0.1
    raw = span / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * n for n in (1, 2, 2.5, 5, 10) if power * n >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    last = max(last, first + 1)
    start, end = (plot.left + 8, plot.right - 16) if across else (plot.bottom, plot.top + 4)

    def scale(value: float) -> float:
        return round(start + (value / step - first) / (last - first) * (end - start), 2)

    digits = max(0, -math.floor(math.log10(step) + 1e-9)) + (step / power == 2.5)
    return scale, [(scale(i * step), f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def decades(low: float, high: float) -> tuple[Scale, list[tuple[float, str]]]:
    """Return a scale of exponents of ten, and its ticks."""
    first, last = math.floor(low + 1e-9), math.ceil(high - 1e-9)
    last = max(last, first + 1)

    def scale(value: float) -> float:
        return round(LEFT + (value - first) / (last - first) * (WIDTH - RIGHT - 14 - LEFT), 2)

    every = math.ceil((last - first) / 6)
    return scale, [(scale(i), f"1e{i}") for i in range(first, last + 1, every)]


def line(series: int, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return a line through the points, in the colour of its series."""
    return {"series": series, "points": " ".join(f"{x:.1f},{y:.1f}" for x, y in points)}


def mark(series: int, x: float, y: float, *, hollow: bool = False) -> dict[str, Any]:
    """Return a mark in the colour and shape of its series."""
    shape = SHAPES[series % len(SHAPES)]
    return {"series": series, "shape": shape, "x": round(x, 1), "y": round(y, 1), "hollow": hollow}
