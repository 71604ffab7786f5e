"""Plots over time: SVG without words, stretched to the page's width, and words as HTML beside it.

A plot is PLOT_WIDTH units wide whatever the screen; lines keep their thickness and words their size.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from testnet.page.axis import Axis
from testnet.page.markup import Markup, element, join
from testnet.page.scales import Scale, format_time, list_ticks

PLOT_WIDTH, PLOT_HEIGHT, ROW_HEIGHT = 1_000, 120, 10
BAR_WIDTH_MIN = 4.0  # a pixel of a phone
GAP_BINS_MAX = 4  # without a value, over which a line is drawn on
Key = Sequence[tuple[str, str]]  # tone and what it stands for


@dataclass(frozen=True)
class Line:
    """A line of a plot: values by bin. `tone` is the class that colours it; an area is filled down to 0."""

    name: str
    tone: str
    points: Mapping[int, float]
    has_gaps: bool = True  # where a bin has no value; else it is 0 there
    is_area: bool = False


@dataclass(frozen=True)
class Bar:
    """A stretch of a row, or a band behind a plot, in shares of the width; `text` is told to the mouse."""

    begin: float
    end: float
    tone: str
    text: str = ""


def draw_plot(
    name: str, axis: Axis, lines: Sequence[Line], scale: Scale, bands: Sequence[Bar], write: Callable[[float], str]
) -> Markup:
    """Lines over one time axis. `write` says a value with its unit."""
    levels = [_y(scale.place(value)) for value, _ in scale.labels]
    grid = [element("line", x1=0, x2=PLOT_WIDTH, y1=y, y2=y, class_="grid") for y in levels]
    drawn = [part for line in lines for part in _draw_line(axis, line, scale)]
    hover = element("g", *_draw_hovers(axis, lines, write), class_="hover")
    svg = _frame(name, PLOT_HEIGHT, *(_draw_bar(band, PLOT_HEIGHT) for band in bands), *grid, *drawn, hover)
    labels = [element("span", word, style=f"bottom:{100 * scale.place(value):.2f}%") for value, word in scale.labels]
    field = join(element("div", *labels, class_="y"), element("div", svg, class_="field"))
    key = [(line.tone, line.name) for line in lines]
    return make_chart(name, key, element("div", field, class_="plot"), draw_ticks(axis.length_ms))


def draw_row(name: str, bars: Iterable[Bar], note: str = "", title: str = "") -> Markup:
    """A name, bars on one line, and a word at the end."""
    svg = _frame(name, ROW_HEIGHT, *(_draw_bar(bar, ROW_HEIGHT) for bar in bars))
    parts = [element("div", name, class_="name", title=title or name), element("div", svg, class_="strip")]
    return element("div", *parts, element("div", note, class_="note") if note else "", class_="plot row")


def draw_ticks(length_ms: float) -> Markup:
    """Times since the start, below plots and rows."""
    ticks = [element("span", word, style=f"left:{100 * share:.2f}%") for share, word in list_ticks(length_ms)]
    return element("div", element("div"), element("div", *ticks, class_="ticks"), class_="plot")


def make_chart(name: str, key: Key, *parts: Markup, kind: str = "chart") -> Markup:
    """A figure with its name, and its key if it needs one."""
    told = make_key(key)
    return element("figure", element("figcaption", element("b", name), told if key else ""), *parts, class_=kind)


def make_key(key: Key) -> Markup:
    """What each tone stands for."""
    return element("span", *(element("span", element("i", class_=tone), text) for tone, text in key), class_="key")


def list_bars(cells: Sequence[str]) -> list[Bar]:
    """A bar for each stretch of equal cells; an empty cell is a gap.

    >>> [(bar.begin, bar.end, bar.tone) for bar in list_bars(["", "a", "a", "b"])]
    [(0.25, 0.75, 'a'), (0.75, 1.0, 'b')]
    """
    ends = [at for at in range(1, len(cells) + 1) if at == len(cells) or cells[at] != cells[at - 1]]
    begins = [0, *ends]
    stretches = zip(begins, ends, strict=False)
    return [Bar(begin / len(cells), end / len(cells), cells[begin]) for begin, end in stretches if cells[begin]]


def _draw_line(axis: Axis, line: Line, scale: Scale) -> list[Markup]:
    width = PLOT_WIDTH / axis.bins
    known = line.points if line.has_gaps else {at: line.points.get(at, 0.0) for at in range(axis.bins)}
    stretches: list[list[tuple[float, float]]] = []
    latest = -GAP_BINS_MAX - 2
    for at, value in sorted(known.items()):
        if at - latest > GAP_BINS_MAX + 1:
            stretches.append([])
        stretches[-1].append((round((at + 0.5) * width, 1), _y(scale.place(value))))
        latest = at
    return [_draw_stretch(points, line) for points in stretches]


def _draw_stretch(points: list[tuple[float, float]], line: Line) -> Markup:
    if line.is_area:
        ground = [(points[0][0], float(PLOT_HEIGHT)), *points, (points[-1][0], float(PLOT_HEIGHT))]
        return element("polygon", points=_write_points(ground), class_=f"area {line.tone}")
    if len(points) == 1:  # with round caps, a line to itself is a dot
        return element("polyline", points=_write_points(points * 2), class_=f"line dot {line.tone}")
    return element("polyline", points=_write_points(points), class_=f"line {line.tone}")


def _draw_hovers(axis: Axis, lines: Sequence[Line], write: Callable[[float], str]) -> list[Markup]:
    """What the mouse is told over each bin."""
    hovers, width = [], PLOT_WIDTH / axis.bins
    for index in range(axis.bins):
        told = [f"{line.name} {write(line.points[index])}" for line in lines if index in line.points]
        if told:
            title = element("title", f"{format_time(axis.width_ms * index)}: {', '.join(told)}")
            place = {"x": round(index * width, 1), "y": 0, "width": round(width, 1), "height": PLOT_HEIGHT}
            hovers.append(element("rect", title, **place))
    return hovers


def _draw_bar(bar: Bar, height: float) -> Markup:
    begin, end = (PLOT_WIDTH * min(1.0, max(0.0, share)) for share in (bar.begin, bar.end))
    width = max(BAR_WIDTH_MIN, end - begin)
    place = {"x": round(min(begin, PLOT_WIDTH - width), 1), "y": 0, "width": round(width, 1), "height": height}
    return element("rect", *([element("title", bar.text)] if bar.text else []), class_=bar.tone, **place)


def _frame(name: str, height: float, *children: Markup) -> Markup:
    box = {"viewBox": f"0 0 {PLOT_WIDTH} {height}", "preserveAspectRatio": "none"}
    return element("svg", join(*children), role="img", aria_label=name, **box)


def _write_points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:g},{y:g}" for x, y in points)


def _y(share: float) -> float:
    return round(PLOT_HEIGHT * (1 - min(1.0, max(0.0, share))), 1)
