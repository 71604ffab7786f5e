"""Plots over one time axis: SVG without words, stretched to the page's width, and words as HTML beside it.

A plot is PLOT_WIDTH units wide whatever the screen; lines keep their thickness and words their size.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from testnet.page.axis import Axis
from testnet.page.markup import Markup, element, join

PLOT_WIDTH, PLOT_HEIGHT = 1_000, 120
LABELS = 3  # on the vertical axis, beside its lower end
TICKS = 5
TICK_STEPS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 14_400, 43_200)
Points = Sequence[tuple[int, float]]  # bin and value


@dataclass(frozen=True)
class Line:
    """A line of a plot. `tone` is the class that colours it."""

    name: str
    tone: str
    points: Points
    has_gaps: bool = True  # where a bin has no value; else it is 0 there


@dataclass(frozen=True)
class Band:
    """A stretch of time behind everything: a fault. `end_ms` is where it ends, or the axis."""

    tone: str
    text: str
    begin_ms: int
    end_ms: int


@dataclass(frozen=True)
class Scale:
    """A vertical axis. `place` maps a value to 0 … 1, `labels` are values with their words."""

    place: Callable[[float], float]
    labels: Sequence[tuple[float, str]]


def make_linear(top: float, write: Callable[[float], str]) -> Scale:
    """From 0 to a round number at or above `top`.

    >>> [word for _, word in make_linear(37, "{:.0f}".format).labels]
    ['0', '20', '40']
    """
    step = round_up(max(top, 1e-9) / 2)
    upper = step * max(1, math.ceil(max(top, 1e-9) / step))
    count = round(upper / step)
    return Scale(lambda value: value / upper, [(step * each, write(step * each)) for each in range(count + 1)])


def make_decades(low: float, high: float, write: Callable[[float], str]) -> Scale:
    """Powers of ten from below `low` to above `high`; both above 0.

    >>> [word for _, word in make_decades(30, 2_000, "{:.0f}".format).labels]
    ['10', '100', '1000', '10000']
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(max(high, low * 1.01)))
    span = max(1, last - first)
    labels = [(10.0**power, write(10.0**power)) for power in range(first, first + span + 1)]
    return Scale(lambda value: (math.log10(max(value, 10.0**first)) - first) / span, labels)


def round_up(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, ….

    >>> round_up(3), round_up(0.07), round_up(50)
    (5, 0.1, 50)
    """
    power = 10.0 ** math.floor(math.log10(value))
    step = next(step for step in (1, 2, 5, 10) if step * power >= value * 0.999_999)
    return round(step * power, 10) if power < 1 else int(step * power)


def draw_plot(
    name: str, axis: Axis, lines: Sequence[Line], scale: Scale, bands: Sequence[Band], tell: Callable[[int], str]
) -> Markup:
    """One plot. `tell` says what the mouse is told over a bin."""
    grid = [
        element("line", x1=0, x2=PLOT_WIDTH, y1=y, y2=y, class_="grid")
        for y in (_y(scale.place(value)) for value, _ in scale.labels)
    ]
    drawn = [part for line in lines for part in _draw_line(axis, line, scale)]
    width = PLOT_WIDTH / (axis.last + 1)
    hovers = [
        element("rect", element("title", text), x=_round(index * width), y=0, width=_round(width), height=PLOT_HEIGHT)
        for index in range(axis.last + 1)
        if (text := tell(index))
    ]
    hover = element("g", *hovers, class_="hover")
    svg = _frame(PLOT_HEIGHT, name, *draw_bands(axis, bands, PLOT_HEIGHT), *grid, *drawn, hover)
    labels = [
        element("span", word, style=f"bottom:{100 * scale.place(value):.2f}%") for value, word in scale.labels[::-1]
    ]
    key = [element("span", element("i", class_=line.tone), line.name) for line in lines]
    head = element("figcaption", element("b", name), element("span", *key, class_="key"))
    body = element("div", element("div", *labels, class_="y"), element("div", svg, class_="field"), class_="plot")
    return element("figure", head, body, draw_ticks(axis), class_="chart")


def draw_bands(axis: Axis, bands: Iterable[Band], height: float) -> list[Markup]:
    """Faults behind a plot."""
    drawn = []
    for band in bands:
        left, right = _x(axis, band.begin_ms), _x(axis, band.end_ms)
        rect = {"x": _round(left), "y": 0, "width": _round(max(1.0, right - left)), "height": height}
        drawn.append(element("rect", element("title", band.text), class_=f"band {band.tone}", **rect))
    return drawn


def draw_strips(axis: Axis, rows: Sequence[tuple[str, Sequence[str]]], tones: Sequence[tuple[str, str]]) -> Markup:
    """A row for each name, coloured by a tone for each bin; an empty one is left blank. `tones` are the key."""
    width = PLOT_WIDTH / (axis.last + 1)
    lines = []
    for name, cells in rows:
        rects = [
            element("rect", x=_round(start * width), y=0, width=_round(count * width), height=10, class_=tone)
            for start, count, tone in _list_runs(cells)
            if tone
        ]
        field = element("div", _frame(10, name, *rects), class_="field strip")
        lines.append(element("div", element("div", name, class_="y name"), field, class_="plot row"))
    key = [element("span", element("i", class_=tone), text) for tone, text in tones]
    head = element("figcaption", element("b", "Heads per node"), element("span", *key, class_="key"))
    return element("figure", head, *lines, draw_ticks(axis), class_="chart")


def draw_ticks(axis: Axis) -> Markup:
    """Seconds or minutes since the start below a plot."""
    length_s = (axis.end_ms - axis.start_ms) / 1_000
    days = 86_400 * math.ceil(length_s / 86_400 / TICKS)
    step = next((step for step in TICK_STEPS_S if length_s / step <= TICKS), days)
    ticks = [
        element("span", format_time(at), style=f"left:{100 * at / length_s:.2f}%")
        for at in range(0, int(length_s * 0.97) + 1, step)
    ]
    return element("div", element("div", class_="y"), element("div", *ticks, class_="ticks"), class_="plot")


def format_time(seconds: float) -> str:
    """Since the start of a run.

    >>> format_time(7), format_time(90), format_time(3_660)
    ('7 s', '1:30', '1:01:00')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    hours, rest = divmod(whole, 3_600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def _draw_line(axis: Axis, line: Line, scale: Scale) -> list[Markup]:
    width = PLOT_WIDTH / (axis.last + 1)
    known = dict(line.points)
    stretches: list[list[str]] = [[]]
    for index in range(axis.last + 1):
        value = known.get(index, None if line.has_gaps else 0.0)
        if value is None:
            stretches.append([])
        else:
            stretches[-1].append(f"{_round((index + 0.5) * width)},{_y(scale.place(value))}")
    return [
        element("polyline", points=" ".join(points if len(points) > 1 else points * 2), class_=f"line {line.tone}")
        for points in stretches
        if points
    ]


def _list_runs(cells: Sequence[str]) -> list[tuple[int, int, str]]:
    """Where each stretch of equal cells begins, how long it is, and what it holds."""
    runs: list[tuple[int, int, str]] = []
    for index, tone in enumerate(cells):
        if runs and runs[-1][2] == tone:
            start, count, _ = runs[-1]
            runs[-1] = (start, count + 1, tone)
        else:
            runs.append((index, 1, tone))
    return runs


def _frame(height: float, name: str, *children: Markup) -> Markup:
    box = {"viewBox": f"0 0 {PLOT_WIDTH} {height}", "preserveAspectRatio": "none"}
    return element("svg", join(*children), role="img", aria_label=name, **box)


def _x(axis: Axis, time_ms: int) -> float:
    share = (time_ms - axis.start_ms) / (axis.end_ms - axis.start_ms)
    return PLOT_WIDTH * min(1.0, max(0.0, share))


def _y(share: float) -> float:
    return _round(PLOT_HEIGHT * (1 - min(1.0, max(0.0, share))))


def _round(value: float) -> float:
    return round(value, 1)
