"""The charts of the privacy report: numbers in, inline SVG out, made of the parts that all our charts share.

Curves differ by dash and marker, bars by pattern, and every mark is named in a legend: they read in grey print and to
a colour-blind reader. Lengths are SVG user units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

from markupsafe import Markup

from common.charts import (
    COLOURS,
    DASHES,
    MARKERS,
    WIDTH,
    Bar,
    BarRow,
    Caption,
    Scale,
    bar_chart,
    box,
    drawing,
    legend_of,
    linear_ticks,
    marker,
    number,
    patterns,
    rule,
    tag,
    text_width,
    words_at,
)

HEIGHT = 250.0


@dataclass(frozen=True)
class Segment:
    """A part of the budget bar: how many rounds, and a fill of `common.charts.FILLS`."""

    label: str
    rounds: int
    fill: str


@dataclass(frozen=True)
class Curve:
    """One curve: points (x, y) in order of x; `style` picks dash, marker and colour, `steps` draws a staircase."""

    label: str
    points: Sequence[tuple[float, float]]
    style: int = 0
    steps: bool = False
    marked: bool = True


@dataclass(frozen=True)
class Mark:
    """One point that is named in the legend; `lift` moves its mark up from a point that has one already."""

    label: str
    x: float
    y: float
    kind: str
    lift: float = 0.0


@dataclass(frozen=True)
class Axis:
    """An axis: its words, its ticks from lowest to highest, and how a tick reads."""

    words: str
    ticks: Sequence[float]
    log: bool = False
    read: Callable[[float], str] = field(default=number)


def budget_bar(caption: Caption, segments: Sequence[Segment]) -> Markup:
    """Return one bar of rounds, a segment for each thing that became of them; segments of no rounds are left out."""
    shown = [one for one in segments if one.rounds] or list(segments[-1:])
    swatches = {one.label: box(caption.key, one.fill, 4, -6, 16, 12) for one in shown}
    key, top = legend_of([*swatches], 12.0, swatches, 0.0)
    whole = sum(one.rounds for one in shown) or 1
    ends = [WIDTH * so_far / whole for so_far in accumulate((one.rounds for one in shown), initial=0)]
    parts = [
        box(caption.key, one.fill, left, top, right - left, 34)
        for one, (left, right) in zip(shown, pairwise(ends), strict=True)
    ]
    named = [
        words_at(str(one.rounds), (left + right) / 2, top + 50, "middle", "value")
        for one, (left, right) in zip(shown, pairwise(ends), strict=True)
    ]
    return drawing(
        caption,
        top + 76,
        patterns(caption.key),
        key,
        *parts,
        *named,
        words_at(caption.x, 0, top + 70, class_="axis"),
    )


def plane(
    caption: Caption,
    x: Axis,
    y: Axis,
    curves: Sequence[Curve],
    marks: Sequence[Mark] = (),
    level: tuple[str, float] | None = None,
) -> Markup:
    """Return curves over two axes, linear or logarithmic, with named points and one level line."""
    left = max([text_width(y.read(tick)) for tick in y.ticks]) + 12
    key, top = _legend(curves, marks, level, left)
    across = Scale(x.ticks[0], x.ticks[-1], left + 4, WIDTH - 14, x.log)
    down = Scale(y.ticks[0], y.ticks[-1], top + HEIGHT - 50, top + 6, y.log)
    return drawing(
        caption,
        top + HEIGHT - 8,
        words_at(y.words, 0, 13, class_="axis"),
        key,
        *_axes(x, y, across, down, left),
        *(_drawn(one, across, down) for one in curves),
        *(_level(level[1], across, down) if level else ()),
        *(marker(one.kind, across.at(one.x), down.at(one.y) - one.lift, "#1a2530") for one in marks),
    )


def _axes(x: Axis, y: Axis, across: Scale, down: Scale, left: float) -> Iterator[Markup]:
    for tick in y.ticks:
        yield rule(left, down.at(tick), across.end, down.at(tick))
        yield words_at(y.read(tick), left - 6, down.at(tick) + 4, "end", "tick")
    yield rule(left, down.start, across.end, down.start, "axis-line")
    for tick in x.ticks:
        yield rule(across.at(tick), down.start, across.at(tick), down.start + 4, "axis-line")
        yield words_at(x.read(tick), across.at(tick), down.start + 18, "middle", "tick")
    yield words_at(x.words, (left + across.end) / 2, down.start + 36, "middle", "axis")


def _legend(
    curves: Sequence[Curve], marks: Sequence[Mark], level: tuple[str, float] | None, left: float
) -> tuple[Markup, float]:
    swatches = {one.label: _sample(one) for one in curves}
    swatches |= {one.label: marker(one.kind, 10, 0, "#1a2530") for one in marks}
    if level:
        swatches[level[0]] = rule(0, 0, 20, 0, "limit")
    return legend_of([*swatches], 34.0, swatches, left)


def _sample(curve: Curve) -> Markup:
    line = tag("path", d="M0,0 h22", **_stroke(curve.style))
    shape = marker(MARKERS[curve.style % len(MARKERS)], 11, 0, COLOURS[curve.style % len(COLOURS)])
    return line + shape if curve.marked else line


def _stroke(style: int) -> dict[str, object]:
    return {
        "fill": "none",
        "stroke": COLOURS[style % len(COLOURS)],
        "stroke_width": 2.2,
        "stroke_dasharray": DASHES[style % len(DASHES)],
        "stroke_linejoin": "round",
    }


def _drawn(curve: Curve, across: Scale, down: Scale) -> Markup:
    points = [(across.at(a), down.at(b)) for a, b in curve.points]
    if not points:
        return Markup("")
    path = f"M{points[0][0]:.2f},{points[0][1]:.2f}"
    for a, b in points[1:]:
        path += f" H{a:.2f} V{b:.2f}" if curve.steps else f" L{a:.2f},{b:.2f}"
    every = max(1, math.ceil(len(points) / 20))
    kind, colour = MARKERS[curve.style % len(MARKERS)], COLOURS[curve.style % len(COLOURS)]
    shapes = [marker(kind, a, b, colour) for a, b in points[::every]] if curve.marked else []
    return tag("g", tag("path", d=path, **_stroke(curve.style)), *shapes)


def _level(value: float, across: Scale, down: Scale) -> Iterator[Markup]:
    for kind in ("halo", "limit"):
        yield rule(across.start, down.at(value), across.end, down.at(value), kind)


def interval(caption: Caption, lower: BarRow, upper: BarRow, legend: dict[str, str]) -> Markup:
    """Return two bars, a measured lower bound and a claimed upper bound, with the most that could have been shown."""
    high = max([bar.value for row in (lower, upper) for bar in row.bars] + [row.limit or 0.0 for row in (lower, upper)])
    return bar_chart(caption, [upper, lower], high=high or 1.0, legend=legend)


def bars(caption: Caption, rows: Sequence[tuple[str, str, float | None, str, str]]) -> Markup:
    """Return one bar a row of (label, words under it, value, its text, fill); None has no bar and keeps its text."""
    drawn = [BarRow(label, [Bar(value or 0.0, fill, text)], words=words) for label, words, value, text, fill in rows]
    return bar_chart(caption, drawn, high=max([row[2] or 0.0 for row in rows] + [0.1]), legend={})


def span(values: Sequence[float]) -> list[float]:
    """Return ticks from zero that cover `values`.

    >>> span([6.34, 8.0])
    [0.0, 2.0, 4.0, 6.0, 8.0]
    """
    return linear_ticks(0.0, max([*values, 0.1]))


def powers(low: float, high: float) -> list[float]:
    """Return powers of ten that cover `low`..`high` from outside, thinned to at most seven.

    >>> powers(2e-8, 0.3)
    [1e-08, 1e-06, 0.0001, 0.01, 1.0]
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    every = max(1, math.ceil((last - first) / 6))
    exponents = sorted(range(last, first - every, -every))
    return [float(f"1e{one}") for one in exponents]
