"""Inline SVG charts: numbers in, escaped markup out.

Every chart stands alone: it carries its own title, description, legend and patterns, needs nothing from outside the
page, and tells its series apart by dash, marker or pattern as well as by colour, so that it reads in grey print.
Lengths are SVG user units, one CSS pixel at full size; x grows to the right and y downwards.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from markupsafe import Markup

WIDTH = 480.0
FONT = 13.0
COLOURS = ("#1d4f73", "#b8541a", "#4d7c3a", "#7a4a86", "#5f6b76", "#8a6d00")
DASHES = ("none", "7 4", "2 3", "9 3 2 3", "12 4", "4 2")
MARKERS = ("circle", "square", "triangle", "diamond", "cross", "ring")
FILLS = ("solid", "stripes", "dots", "pale", "hollow", "mesh")
STEPS = (1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class Caption:
    """What a reader or a screen reader is told; `key` makes the ids of this chart unique on its page."""

    key: str
    title: str
    description: str
    x: str = ""
    y: str = ""


@dataclass(frozen=True)
class Line:
    """One series of a line chart: points (x, y) in order of x; `mark` stands before its last value."""

    label: str
    points: Sequence[tuple[float, float]]
    mark: str = ""


@dataclass(frozen=True)
class Bar:
    """One bar of a horizontal chart; `fill` is a name of FILLS, `text` stands at its end."""

    value: float
    fill: str
    text: str


@dataclass(frozen=True)
class BarRow:
    """One labelled row of a horizontal chart: its bars, a limit to hold them against, and words under the label."""

    label: str
    bars: Sequence[Bar]
    limit: float | None = None
    words: str = ""


@dataclass(frozen=True)
class Column:
    """A column's heading and the style class of its cells: `name`, `num`, `words` and others.

    `quoted` cells hold what others wrote.
    """

    title: str
    kind: str = ""


@dataclass(frozen=True)
class Badge:
    """One cell of the status grid: a letter, and the words behind it."""

    letter: str
    kind: str
    title: str


@dataclass(frozen=True)
class Table:
    """A table of ready-made words; the first cell of a row is its heading."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[str | Badge]]


@dataclass(frozen=True)
class Figure:
    """A chart with its numbers beside it."""

    title: str
    notes: Sequence[str]
    chart: Markup
    table: Table


@dataclass(frozen=True)
class Tile:
    """One figure at a glance."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class Scale:
    """A linear or logarithmic map from values `low`..`high` to positions `start`..`end`."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Return the position of `value`."""
        low, high, value = (math.log(x) if self.log else x for x in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (value - low) / (high - low)


# ---- numbers to axes


def step_for(span: float, count: int = 4) -> float:
    """Return the 1-2-5 step that cuts `span` into about `count` parts.

    >>> step_for(37.0)
    10.0
    """
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    return next(step * power for step in STEPS if step * power >= raw * 0.999999)


def linear_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return 1-2-5 ticks that cover `low`..`high` from outside.

    >>> linear_ticks(12.0, 49.0)
    [10.0, 20.0, 30.0, 40.0, 50.0]
    """
    if high <= low:
        low, high = low - abs(low) * 0.1 - 0.5, high + abs(high) * 0.1 + 0.5
    step = step_for(high - low, count)
    return [round(i * step, 10) for i in range(math.floor(low / step), math.ceil(high / step) + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2, 5, 10, 20, … that cover `low`..`high` from outside; both are positive.

    >>> log_ticks(12.0, 130.0)
    [10.0, 20.0, 50.0, 100.0, 200.0]
    """
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 2)
    every = [step * 10.0**power for power in powers for step in STEPS[:3]]
    first = max(i for i, tick in enumerate(every) if tick <= low)
    last = min(i for i, tick in enumerate(every) if tick >= high and i > first)
    return every[first : last + 1]


def whole_ticks(high: int, count: int = 8) -> list[int]:
    """Return whole numbers 0..`high` thinned to about `count`.

    >>> whole_ticks(10, 5)
    [0, 2, 4, 6, 8, 10]
    """
    step = max(1, round(step_for(high, count))) if high else 1
    return list(range(0, high + 1, step))


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return positions near `wanted`, in the same order, with at least `gap` between any two.

    >>> spread([10.0, 12.0, 40.0], 14.0)
    [4.0, 18.0, 40.0]
    """
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[list[int]] = []
    for index in order:
        groups.append([index])
        while len(groups) > 1 and _middle(groups[-1], wanted) - _middle(groups[-2], wanted) < gap * _reach(groups):
            groups[-2:] = [groups[-2] + groups[-1]]
    placed = dict.fromkeys(order, 0.0)
    for group in groups:
        for place, index in enumerate(group):
            placed[index] = _middle(group, wanted) + gap * (place - (len(group) - 1) / 2)
    return [placed[i] for i in range(len(wanted))]


def _middle(group: Sequence[int], wanted: Sequence[float]) -> float:
    return math.fsum(wanted[i] for i in group) / len(group)


def _reach(groups: Sequence[Sequence[int]]) -> float:
    return (len(groups[-1]) + len(groups[-2])) / 2


def number(value: float) -> str:
    """Return a tick's label without needless digits: 0.5, 20, 1,500."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.10g}"


# ---- text


def delta_text(delta: float) -> str:
    """Return δ as a power of ten.

    >>> delta_text(1e-6), delta_text(2.5e-7)
    ('10⁻⁶', '2.5×10⁻⁷')
    """
    digits, _, exponent = f"{delta:e}".partition("e")
    power = f"10{str(int(exponent)).translate(str.maketrans('-0123456789', '⁻⁰¹²³⁴⁵⁶⁷⁸⁹'))}"
    mantissa = digits.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{mantissa}×{power}"


def visible(text: str) -> str:
    """Return `text` with every character that could hide, reorder or break what follows shown as a replacement mark.

    >>> visible("茶" + chr(0x202E) + "店")
    '茶\ufffd店'
    """
    return "".join("\ufffd" if _hides(char) else char for char in text)


def _hides(char: str) -> bool:
    kind = unicodedata.category(char)
    turns = unicodedata.bidirectional(char) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return turns or kind == "Cs" or (kind == "Cc" and char not in "\n\t") or char in "\u200e\u200f\u061c\u2028\u2029"


def text_width(text: str) -> float:
    """Return about how wide `text` runs in the charts' font; wide East Asian characters take a whole em."""
    return FONT * sum(1.0 if unicodedata.east_asian_width(char) in "WF" else 0.56 for char in text)


def shorten(text: str, width: float) -> str:
    """Return `text` cut to `width` with an ellipsis.

    >>> shorten("a very long name indeed", 60.0)
    'a very…'
    """
    if text_width(text) <= width:
        return text
    widths = accumulate(text_width(char) for char in text)
    kept = sum(1 for so_far in widths if so_far <= width - FONT)
    return f"{text[:kept].rstrip()}…"


# ---- markup


def tag(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """Return one element; strings are escaped, `Markup` children are kept, `stroke_width` becomes `stroke-width`."""
    pairs = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), _attribute(value))
        for key, value in attributes.items()
    )
    inside = Markup("").join(one if isinstance(one, Markup) else visible(one) for one in children)
    return Markup("<{0}{1}>{2}</{0}>").format(name, pairs, inside)


def _attribute(value: object) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else visible(str(value))


def drawing(caption: Caption, height: float, *children: Markup, width: float = WIDTH) -> Markup:
    """Return a whole chart of this height: title and description for screen readers, then what is drawn."""
    title, description = f"{caption.key}-title", f"{caption.key}-desc"
    return tag(
        "svg",
        tag("title", caption.title, id=title),
        tag("desc", caption.description, id=description),
        *children,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_attribute(width)} {_attribute(height)}",
        width=width,
        height=height,
        role="img",
        aria_labelledby=f"{title} {description}",
    )


def words_at(words: str, x: float, y: float, anchor: str = "start", class_: str = "label") -> Markup:
    """Return words at a place; `class_` is one of the page's styles: label, tick, axis, value, inside."""
    return tag("text", words, x=x, y=y, text_anchor=anchor, class_=class_)


def rule(x1: float, y1: float, x2: float, y2: float, class_: str = "grid") -> Markup:
    """Return a straight line; `class_` is one of the page's styles: grid, axis-line, limit, halo."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def patterns(key: str) -> Markup:
    """Return the fills that need a pattern, with ids under `key`."""
    ink, tint = COLOURS[0], "#e8eef3"
    drawings = {
        "stripes": tag("path", d="M-2,2 l4,-4 M0,8 l8,-8 M6,10 l4,-4", stroke=COLOURS[1], stroke_width=2.2),
        "dots": tag("circle", cx=2, cy=2, r=1.3, fill=ink) + tag("circle", cx=6, cy=6, r=1.3, fill=ink),
        "mesh": tag("path", d="M0,0 l8,8 M8,0 l-8,8", stroke=COLOURS[3], stroke_width=1.2),
    }
    grounds = {"stripes": "#fdf1e8", "dots": tint, "mesh": "#f6eff8"}
    return tag(
        "defs",
        *(
            tag(
                "pattern",
                tag("rect", width=8, height=8, fill=grounds[name]),
                drawing,
                id=f"{key}-{name}",
                width=8,
                height=8,
                patternUnits="userSpaceOnUse",
            )
            for name, drawing in drawings.items()
        ),
    )


def box(key: str, fill: str, x: float, y: float, width: float, height: float) -> Markup:
    """Return a filled rectangle; thin ones have a flat fill and no outline, which would drown a pattern."""
    paints = {"solid": COLOURS[0], "pale": "#c3cbd3", "hollow": "#ffffff"}
    if width < 5:
        paints |= {"stripes": "#e3a97c", "dots": "#9db4c6", "mesh": "#bfa3c9"}
    lines = {"solid": COLOURS[0], "pale": "#7d8893", "hollow": "#5b6875", "stripes": COLOURS[1], "mesh": COLOURS[3]}
    return tag(
        "rect",
        x=x,
        y=y,
        width=max(width, 0.0),
        height=max(height, 0.0),
        fill=paints.get(fill, f"url(#{key}-{fill})"),
        stroke=lines.get(fill, COLOURS[0]),
        stroke_width=0.8 if min(width, height) > 3 else 0,
    )


def marker(kind: str, x: float, y: float, colour: str) -> Markup:
    """Return a marker of a kind of MARKERS around a point."""
    r = 3.6
    shapes = {
        "circle": f"M{x - r:.2f},{y:.2f} a{r},{r} 0 1,0 {2 * r},0 a{r},{r} 0 1,0 {-2 * r},0 Z",
        "square": f"M{x - r:.2f},{y - r:.2f} h{2 * r} v{2 * r} h{-2 * r} Z",
        "triangle": f"M{x:.2f},{y - r - 1:.2f} l{r + 1},{2 * r + 1} h{-2 * r - 2} Z",
        "diamond": f"M{x:.2f},{y - r - 1:.2f} l{r + 1},{r + 1} l{-r - 1},{r + 1} l{-r - 1},{-r - 1} Z",
        "cross": f"M{x - r:.2f},{y - r:.2f} l{2 * r},{2 * r} M{x + r:.2f},{y - r:.2f} l{-2 * r},{2 * r}",
        "ring": f"M{x - r:.2f},{y:.2f} a{r},{r} 0 1,0 {2 * r},0 a{r},{r} 0 1,0 {-2 * r},0 Z",
    }
    fill = "#ffffff" if kind == "ring" else colour
    return tag("path", d=shapes[kind], fill=fill, stroke=colour, stroke_width=1.4)


def legend_of(labels: Sequence[str], y: float, swatch: Mapping[str, Markup], left: float) -> tuple[Markup, float]:
    """Return the legend's marks, each swatch moved from the origin into place, and the y below the last line."""
    x, drawn = left, []
    for label in labels:
        needed = 26 + text_width(label) + 12
        if x > left and x + needed > WIDTH:
            x, y = left, y + 18
        drawn += [tag("g", swatch[label], transform=f"translate({x:.2f},{y:.2f})"), words_at(label, x + 26, y + 4)]
        x += needed
    return Markup("").join(drawn), y + 18


# ---- charts


def line_chart(caption: Caption, lines: Sequence[Line], *, compact: bool = False, log: bool | None = None) -> Markup:
    """Return a line chart, x in whole rounds from 0.

    The y axis turns logarithmic when the highest value is over eight times the lowest, unless `log` says otherwise.
    `compact` draws a small panel for one line: first and last value, no legend.
    """
    width, height = (224.0, 150.0) if compact else (WIDTH, 300.0)
    values = [y for line in lines for _, y in line.points]
    log = max(values) > 8 * min(values) if log is None else log
    ticks = log_ticks(min(values), max(values)) if log else linear_ticks(min(values), max(values), 3 if compact else 4)
    left = max(text_width(number(tick)) for tick in ticks) + 10
    key, top = _line_legend(lines, 36.0, left) if len(lines) > 1 else (Markup(""), 30.0)
    y = Scale(ticks[0], ticks[-1], height + top - 30 - 36, top + 4, log)
    last = int(max(x for line in lines for x, _ in line.points))
    x = Scale(0, max(last, 1), left + 6, width - max(text_width(_end_label(line)) for line in lines) - 18)
    return drawing(
        caption,
        height + top - 30,
        words_at(caption.y, 0, 13, class_="axis"),
        key,
        *_y_axis(y, ticks, left, x.end + 6),
        *_x_axis(x, whole_ticks(last, 4 if compact else 8), y.start, caption.x),
        *(_polyline(line, place, x, y) for place, line in enumerate(lines)),
        *_end_labels(lines, x, y, compact),
        width=width,
    )


def _line_legend(lines: Sequence[Line], y: float, left: float) -> tuple[Markup, float]:
    swatches = {
        line.label: tag("path", d="M0,0 h20", **_stroke(place))
        + marker(MARKERS[place % len(MARKERS)], 10, 0, COLOURS[place % len(COLOURS)])
        for place, line in enumerate(lines)
    }
    return legend_of(list(swatches), y, swatches, left)


def _stroke(place: int) -> dict[str, object]:
    return {
        "fill": "none",
        "stroke": COLOURS[place % len(COLOURS)],
        "stroke_width": 2.2,
        "stroke_dasharray": DASHES[place % len(DASHES)],
        "stroke_linejoin": "round",
    }


def _y_axis(y: Scale, ticks: Sequence[float], left: float, right: float) -> Iterable[Markup]:
    for tick in ticks:
        yield rule(left, y.at(tick), right, y.at(tick))
        yield words_at(number(tick), left - 6, y.at(tick) + 4, "end", "tick")


def _x_axis(x: Scale, ticks: Sequence[int], floor: float, words: str) -> Iterable[Markup]:
    yield rule(x.start - 6, floor, x.end + 6, floor, "axis-line")
    for tick in ticks:
        yield rule(x.at(tick), floor, x.at(tick), floor + 4, "axis-line")
        yield words_at(number(tick), x.at(tick), floor + 17, "middle", "tick")
    yield words_at(words, (x.start + x.end) / 2, floor + 33, "middle", "axis")


def _polyline(line: Line, place: int, x: Scale, y: Scale) -> Markup:
    points = [(x.at(a), y.at(b)) for a, b in line.points]
    path = "M" + " L".join(f"{a:.2f},{b:.2f}" for a, b in points)
    every = max(1, math.ceil(len(points) / 25))
    shown = points if every == 1 else [*points[::every], points[-1]]
    colour = COLOURS[place % len(COLOURS)]
    marks = (marker(MARKERS[place % len(MARKERS)], a, b, colour) for a, b in shown)
    return tag("g", tag("path", d=path, **_stroke(place)), *marks)


def _end_labels(lines: Sequence[Line], x: Scale, y: Scale, compact: bool) -> Iterable[Markup]:
    """Yield the last value of each line, moved apart where they meet, and the first value of a lone line."""
    places = [(x.at(a), y.at(b)) for a, b in (line.points[-1] for line in lines)]
    for end in sorted({a for a, _ in places}):
        here = [i for i, (a, _) in enumerate(places) if a == end]
        for i, place in zip(here, spread([places[i][1] for i in here], 15.0), strict=True):
            yield words_at(_end_label(lines[i]), end + 9, place + 4.5, class_="value")
    if len(lines) == 1 and len(lines[0].points) > 1:
        yield _first_label(lines[0], x, y, 0 if compact else -3)


def _end_label(line: Line) -> str:
    return f"{line.mark} {readable(line.points[-1][1])}".strip()


def _first_label(line: Line, x: Scale, y: Scale, lift: float) -> Markup:
    """Return the first value beside its marker, above a line that falls and below one that rises."""
    (a, first), (_, second) = line.points[:2]
    right, down = (7.0, lift) if second <= first else (0.0, 24.0)
    return words_at(readable(first), x.at(a) + right, y.at(first) + down, class_="value")


def readable(value: float) -> str:
    """Return a measured value with three to four digits that count.

    >>> [readable(x) for x in (7.0, 42.137, 183.24, 12345.6)]
    ['7.00', '42.1', '183', '12,346']
    """
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def bar_chart(caption: Caption, rows: Sequence[BarRow], *, high: float, legend: Mapping[str, str]) -> Markup:
    """Return horizontal bars from zero to at least `high`; `legend` is fill → words, empty where bars need none."""
    ticks = linear_ticks(0.0, high)
    left = min(150.0, max([text_width(words) for row in rows for words in (row.label, row.words)] + [40.0])) + 10
    tail = max([text_width(bar.text) for row in rows for bar in row.bars] + [20.0])
    x = Scale(0.0, ticks[-1], left, WIDTH - tail - 12)
    swatches = {words: _swatch(caption.key, fill) for fill, words in legend.items()}
    key, top = legend_of(list(swatches), 12.0, swatches, 0.0)
    tops = list(accumulate((_row_height(row) for row in rows), initial=top))
    body = [_bar_row(caption.key, row, x, y) for row, y in zip(rows, tops, strict=False)]
    floor = tops[-1] + 4
    return drawing(
        caption,
        floor + 40,
        patterns(caption.key),
        key,
        *(rule(x.at(tick), top, x.at(tick), floor) for tick in ticks),
        *(words_at(number(tick), x.at(tick), floor + 16, "middle", "tick") for tick in ticks),
        *body,
        rule(x.start, top, x.start, floor, "axis-line"),
        words_at(caption.x, _centred(caption.x, (x.start + x.end) / 2), floor + 34, "middle", "axis"),
    )


def _swatch(key: str, fill: str) -> Markup:
    return rule(12, -8, 12, 8, "limit") if fill == "limit" else box(key, fill, 4, -6, 16, 12)


def _centred(words: str, middle: float) -> float:
    """Return where the middle of `words` may stand so that neither end leaves the chart."""
    half = text_width(words) / 2
    return min(max(middle, half), max(WIDTH - half, WIDTH / 2))


def _row_height(row: BarRow) -> float:
    return max(17.0 * max(len(row.bars), 1) + 12, 42.0 if row.words else 0.0)


def _bar_row(key: str, row: BarRow, x: Scale, y: float) -> Markup:
    height = _row_height(row)
    middle, first = y + height / 2, y + (height - 17 * len(row.bars)) / 2
    label = shorten(visible(row.label), x.start - 10)
    drawn = [words_at(label, x.start - 8, middle + (-3 if row.words else 4.5), "end")]
    drawn += [words_at(row.words, x.start - 8, middle + 13, "end", "tick")] if row.words else []
    for place, bar in enumerate(row.bars):
        top = first + 17 * place
        drawn.append(box(key, bar.fill, x.start, top + 1, x.at(bar.value) - x.start, 15))
        drawn.append(_bar_text(bar, row.limit, x, top + 13))
    if row.limit is not None:
        drawn += [rule(x.at(row.limit), y + 3, x.at(row.limit), y + height - 3, kind) for kind in ("halo", "limit")]
    return tag("g", tag("title", row.label), *drawn)


def _bar_text(bar: Bar, limit: float | None, x: Scale, y: float) -> Markup:
    """Return a bar's words: behind its end; where a limit stands in their way, inside a solid bar or behind the limit."""
    end, wide = x.at(bar.value), text_width(bar.text) + 12
    if limit is not None and end <= x.at(limit) < end + wide:
        if bar.fill == "solid" and end - x.start > wide:
            return words_at(bar.text, end - 6, y, "end", "inside")
        end = x.at(limit)
    return words_at(bar.text, end + 6, y, class_="value")


def column_chart(
    caption: Caption, columns: Mapping[int, Sequence[float]], labels: Sequence[str], *, stacked: bool
) -> Markup:
    """Return upright bars by round: `columns` is round → one value a label, stacked on each other or side by side."""
    heights = [math.fsum(values) if stacked else max(values) for values in columns.values()]
    ticks = linear_ticks(0.0, max([*heights, 0.0]) or 1.0)
    left = max(text_width(number(tick)) for tick in ticks) + 10
    fills = dict(zip(labels, FILLS, strict=False))
    swatches = {label: box(caption.key, fill, 4, -6, 16, 12) for label, fill in fills.items()}
    key, top = legend_of(labels, 36.0, swatches, left)
    y = Scale(0.0, ticks[-1], top + 200, top + 4)
    first, last = min(columns), max(columns)
    x = Scale(first - 0.5, last + 0.5, left + 6, WIDTH - 8)
    shown = [tick for tick in whole_ticks(last) if tick >= first]
    draw = _stack if stacked else _side_by_side
    return drawing(
        caption,
        y.start + 40,
        patterns(caption.key),
        words_at(caption.y, 0, 13, class_="axis"),
        key,
        *_y_axis(y, ticks, left, WIDTH),
        *(draw(caption.key, values, x, y, at, tuple(fills.values())) for at, values in columns.items()),
        *_x_axis(x, shown, y.start, caption.x),
    )


def _stack(key: str, values: Sequence[float], x: Scale, y: Scale, at: int, fills: Sequence[str]) -> Markup:
    width = min(0.7 * (x.at(1) - x.at(0)), 46.0)
    edges = pairwise(accumulate(values, initial=0.0))
    return tag(
        "g",
        *(
            box(key, fill, x.at(at) - width / 2, y.at(high), width, y.at(low) - y.at(high))
            for (low, high), fill in zip(edges, fills, strict=False)
        ),
    )


def _side_by_side(key: str, values: Sequence[float], x: Scale, y: Scale, at: int, fills: Sequence[str]) -> Markup:
    width = min(0.76 * (x.at(1) - x.at(0)) / len(values), 24.0)
    left = x.at(at) - width * len(values) / 2
    return tag(
        "g",
        *(
            box(key, fill, left + width * place, y.at(value), width * 0.94, y.at(0.0) - y.at(value))
            for place, (value, fill) in enumerate(zip(values, fills, strict=False))
        ),
    )
