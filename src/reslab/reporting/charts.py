"""Charts as inline SVG: they scale with the page, follow its colours and need no script."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from reslab.reporting.words import say_svg

Point = tuple[float, float]
_DOT = 3.5  # radius
_WIDTH, _HEIGHT = 460, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 24, 14, 44


@dataclass(frozen=True)
class Series:
    """Points of one kind: `style` is a class of the page's style sheet.

    weights: how large each dot's area is, against the largest.
    """

    points: Sequence[Point]
    style: str
    line: bool = True
    dots: bool = False
    weights: Sequence[float] | None = None


@dataclass(frozen=True)
class Axis:
    """What an axis spans, its ticks, and the key of its name among the page's words."""

    low: float
    high: float
    ticks: Sequence[float]
    name: str
    written: Callable[[float], str]
    logarithmic: bool = False
    reverse: bool = False

    def share(self, value: float) -> float:
        """Where a value lies, from 0 to 1."""
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        place = 0.5 if high == low else (value - low) / (high - low)
        return 1 - place if self.reverse else place


def chart(series: Sequence[Series], x: Axis, y: Axis, label: str, *, diagonal: bool = False) -> str:
    """A chart as SVG; `label` is the id of the element that names it."""
    parts = [_frame(x, y)]
    if diagonal:
        parts.append(_line([(x.low, y.low), (x.high, y.high)], x, y, "diagonal"))
    for one in series:
        if one.line and len(one.points) > 1:
            parts.append(_line(one.points, x, y, one.style))
        if one.dots or len(one.points) == 1:
            weights = one.weights or [1.0] * len(one.points)
            radii = [_DOT if one.weights is None else _radius(each) for each in weights]
            parts += [
                _dot(point, x, y, one.style, radius)
                for point, radius in zip(one.points, radii, strict=True)
            ]
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-labelledby="{}">{}</svg>'
    ).format(_WIDTH, _HEIGHT, label, Markup("").join(parts))


def percent_axis(name: str, low: float = 0.0, high: float = 1.0) -> Axis:
    """An axis of shares."""
    return Axis(low, high, nice_ticks(low, high), name, lambda value: f"{100 * value:.5g} %")


def number_axis(name: str, values: Sequence[float], *, whole: bool = False) -> Axis:
    """An axis that spans the values, with round ticks."""
    low, high = min(values), max(values)
    if low == high:
        low, high = low - 0.5, high + 0.5
    ticks = nice_ticks(low, high, whole=whole)
    return Axis(min(low, ticks[0]), max(high, ticks[-1]), ticks, name, lambda v: f"{v:.4g}")


def strength_axis(name: str, values: Sequence[float]) -> Axis:
    """A logarithmic axis from the largest value to the smallest."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    ticks = [10.0**power for power in powers]
    ticks = [tick for tick in ticks if min(values) * 0.99 <= tick <= max(values) * 1.01]
    return Axis(
        min(values), max(values), ticks, name, lambda v: f"{v:g}", logarithmic=True, reverse=True
    )


def nice_ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """About five round values from low to high."""
    rough = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= rough * 0.999)
    if whole:
        step = max(1.0, math.ceil(step))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)] or [low]


def _place(point: Point, x: Axis, y: Axis) -> Point:
    return (
        _LEFT + x.share(point[0]) * (_WIDTH - _LEFT - _RIGHT),
        _HEIGHT - _BOTTOM - y.share(point[1]) * (_HEIGHT - _TOP - _BOTTOM),
    )


def _line(points: Sequence[Point], x: Axis, y: Axis, style: str) -> Markup:
    places = " ".join(f"{a:.1f},{b:.1f}" for a, b in (_place(p, x, y) for p in points))
    return Markup('<polyline class="line {}" points="{}"/>').format(style, places)


def _dot(point: Point, x: Axis, y: Axis, style: str, radius: float) -> Markup:
    a, b = _place(point, x, y)
    return Markup('<circle class="dot {}" cx="{}" cy="{}" r="{}"/>').format(
        style, f"{a:.1f}", f"{b:.1f}", f"{radius:.1f}"
    )


def _radius(weight: float) -> float:
    return 2 + 8 * math.sqrt(weight)


def _frame(x: Axis, y: Axis) -> Markup:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in y.ticks:
        height = f"{_place((x.low, tick), x, y)[1]:.1f}"
        parts.append(
            Markup(
                '<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>'
                '<text class="tick" x="{}" y="{}" dy="0.32em" text-anchor="end">{}</text>'
            ).format(_LEFT, right, height, height, _LEFT - 6, height, y.written(tick))
        )
    for tick in x.ticks:
        place = f"{_place((tick, y.low), x, y)[0]:.1f}"
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                place, bottom + 16, x.written(tick)
            )
        )
    parts.append(
        Markup('<line class="axis" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(
            _LEFT, right, bottom, bottom
        )
    )
    middle = (_LEFT + right) / 2
    parts.append(
        say_svg(x.name, x=middle, y=_HEIGHT - 8, text_anchor="middle", **{"class": "name"})
    )
    return Markup("").join(parts)
