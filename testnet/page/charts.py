"""Everything that is told over time: faults, requests, latencies, heads, fees, memory, on one axis."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence

from testnet.page.axis import Axis, Series
from testnet.page.markup import Markup, element, join
from testnet.page.plots import Bar, Line, draw_plot, draw_row, draw_ticks, list_bars, make_chart, make_key
from testnet.page.scales import format_ms, format_time, make_decades, make_linear
from testnet.page.timeline import Fault, Timeline

GRAINS = 10**9  # of one ROLE
MIB = 2**20
NODES_SHOWN = 40
LANES_SHOWN = 24
TONES = "abcdefgh"  # of roles, in the order of the network file
SAID_MS = 12_000  # a node that is up says so at least every ten seconds
IN_STEP_MS, BEHIND_MS = 2_500, 10_000
KILL = "kill"  # kind of the fault whose nodes are gone while it lasts
LAGS = (("step", "in step"), ("late", "behind"), ("lost", "over 10 s behind"), ("gone", "killed"))


def make_charts(timeline: Timeline) -> Markup:
    """All plots, with faults, and what is missing, as bands behind them."""
    bands = [*_make_gap(timeline), *(_make_bar(timeline.axis, fault, "band") for fault in timeline.faults.values())]
    key = make_key([("fault", "fault"), ("gap", "some event logs are lost")])
    return join(
        element("h2", "Over time"),
        element("p", key) if timeline.cut else "",
        _draw_faults(timeline),
        _draw_requests(timeline, bands),
        _draw_latency(timeline, bands),
        _draw_stages(timeline, bands),
        _draw_heads(timeline),
        _draw_fees(timeline, bands),
        _draw_memory(timeline, bands),
    )


def choose_tones(roles: Iterable[str]) -> dict[str, str]:
    """A tone for each role.

    >>> choose_tones(["validator", "inference", "inference"])
    {'validator': 'a', 'inference': 'b'}
    """
    return {role: TONES[place % len(TONES)] for place, role in enumerate(dict.fromkeys(roles))}


def compute_lags(timeline: Timeline) -> list[tuple[str, list[str]]]:
    """For each node and bin, a tone for how long others have had a block that it has not; empty when it is silent."""
    axis = timeline.axis
    carried = {
        name: carry(dict(series), axis.bins, SAID_MS // axis.width_ms)
        for name, series in list(timeline.heights.items())[:NODES_SHOWN]
    }
    tops, top = [], 0
    for index in range(axis.bins):
        top = max(top, *(heights.get(index, 0) for heights in carried.values()))
        tops.append(top)
    return [
        (name, [_choose_lag(heights.get(at), at, tops, axis.width_ms) for at in range(axis.bins)])
        for name, heights in carried.items()
    ]


def carry(points: Mapping[int, int], bins: int, bins_max: int) -> dict[int, int]:
    """Points with the latest value in each bin after it, for at most so many bins.

    >>> carry({1: 5, 4: 6}, 6, 1)
    {1: 5, 2: 5, 4: 6, 5: 6}
    """
    carried, latest = {}, -1
    for index in range(bins):
        latest = index if index in points else latest
        if latest >= 0 and index - latest <= bins_max:
            carried[index] = points[latest]
    return carried


def accumulate(series: Series[int], bins: int) -> dict[int, int]:
    """The sum of all values up to each bin."""
    total, sums = 0, {}
    for index in range(bins):
        total = sums[index] = total + series.values.get(index, 0)
    return sums


def _draw_faults(timeline: Timeline) -> Markup:
    """A lane for each fault."""
    faults = list(timeline.faults.values())
    if not faults:
        return Markup("")
    rows = [draw_row(fault.id, [_make_bar(timeline.axis, fault, "fault")]) for fault in faults[:LANES_SHOWN]]
    more = _say_more(len(faults) - LANES_SHOWN, "faults")
    return make_chart("Faults", (), *rows, draw_ticks(timeline.axis.length_ms), more)


def _draw_requests(timeline: Timeline, bands: Sequence[Bar]) -> Markup:
    axis, lines = timeline.axis, []
    for name, tone, series in (
        ("sent", "dim", timeline.sent),
        ("answered", "a", timeline.released),
        ("refused", "b", timeline.refused),
        ("failed", "d", timeline.failed),
    ):
        rates = {at: 1_000 * count / axis.width_ms for at, count in series}
        total = sum(series.values.values())
        lines.append(Line(f"{name} {total:,}", tone, rates, has_gaps=not rates, is_area=tone == "dim"))
    scale = make_linear(_find_top(lines, 1.0), "{:,g}".format)
    return draw_plot("Requests a second", axis, lines, scale, bands, "{:.1f}/s".format)


def _draw_latency(timeline: Timeline, bands: Sequence[Bar]) -> Markup:
    told = list(timeline.stages["client"])
    lines = [
        Line(f"p{percent}", tone, {at: histogram.compute_percentile(percent) for at, histogram in told})
        for percent, tone in ((50, "a"), (99, "b"))
    ]
    return _draw_times("Latency, from request to released answer", timeline.axis, lines, bands)


def _draw_stages(timeline: Timeline, bands: Sequence[Bar]) -> Markup:
    tones = choose_tones((*timeline.roles.values(), *timeline.stages))
    lines = [
        Line(role, tones[role], {at: histogram.compute_percentile(50) for at, histogram in series})
        for role, series in timeline.stages.items()
    ]
    return _draw_times("Latency by role, median", timeline.axis, lines, bands)


def _draw_times(name: str, axis: Axis, lines: Sequence[Line], bands: Sequence[Bar]) -> Markup:
    values = [value for line in lines for value in line.points.values()]
    scale = make_decades(max(1.0, min(values, default=10)), max([10.0, *values]), format_ms)
    return draw_plot(name, axis, lines, scale, bands, format_ms)


def _draw_heads(timeline: Timeline) -> Markup:
    axis = timeline.axis
    killed = [fault for fault in timeline.faults.values() if fault.kind == KILL]
    rows = []
    for name, cells in compute_lags(timeline):
        gone = [_make_bar(axis, fault, "gone") for fault in killed if name in fault.who]
        rows.append(draw_row(name, [*list_bars(cells), *gone]))
    more = _say_more(len(timeline.heights) - NODES_SHOWN, "nodes")
    return make_chart("Heads per node", LAGS, *rows, draw_ticks(axis.length_ms), more)


def _draw_fees(timeline: Timeline, bands: Sequence[Bar]) -> Markup:
    sums = {at: grains / GRAINS for at, grains in accumulate(timeline.fees, timeline.axis.bins).items()}
    line = Line("settled", "a", sums)
    scale = make_linear(max(sums.values()), "{:,g}".format)
    return draw_plot("Fees settled so far, in ROLE", timeline.axis, [line], scale, bands, "{:,.3f} ROLE".format)


def _draw_memory(timeline: Timeline, bands: Sequence[Bar]) -> Markup:
    """Of each role the largest process."""
    bins, tones = timeline.axis.bins, choose_tones(timeline.roles.values())
    largest: dict[str, dict[int, float]] = {role: {} for role in tones}
    for name, series in timeline.rss.items():
        points = largest[timeline.roles[name]]
        for at, size_bytes in carry(dict(series), bins, SAID_MS // timeline.axis.width_ms).items():
            points[at] = max(points.get(at, 0.0), size_bytes / MIB)
    lines = [Line(role, tones[role], points) for role, points in largest.items()]
    scale = make_linear(_find_top(lines, 1.0), "{:,g}".format)
    return draw_plot("Memory of the largest process of a role, in MiB", timeline.axis, lines, scale, bands, _write_mib)


def _make_bar(axis: Axis, fault: Fault, tone: str) -> Bar:
    end_ms = fault.ended_ms or axis.end_ms
    lasted = f"{format_time(fault.began_ms - axis.start_ms)} to {format_time(end_ms - axis.start_ms)}"
    text = f"{fault.id}: {fault.kind} {', '.join(fault.who[:8])}, {lasted}"
    return Bar(axis.find_share(fault.began_ms), axis.find_share(end_ms), tone, text)


def _make_gap(timeline: Timeline) -> list[Bar]:
    """The time of which some log has been lost."""
    known_ms = max((timeline.first_ms.get(name, 0) for name in timeline.cut), default=0)
    text = "some event logs of this time are lost"
    return [Bar(0.0, timeline.axis.find_share(known_ms), "gap", text)] if known_ms else []


def _choose_lag(height: int | None, at: int, tops: Sequence[int], width_ms: int) -> str:
    if height is None:
        return ""
    late_ms = max(0, at - bisect_right(tops, height)) * width_ms
    if late_ms <= max(IN_STEP_MS, 2 * width_ms):
        return "step"
    return "late" if late_ms <= max(BEHIND_MS, 4 * width_ms) else "lost"


def _find_top(lines: Iterable[Line], least: float) -> float:
    return max((value for line in lines for value in line.points.values()), default=least)


def _say_more(count: int, what: str) -> Markup:
    return element("p", f"and {count} more {what}", class_="dim") if count > 0 else Markup("")


def _write_mib(value: float) -> str:
    return f"{value:.0f} MiB"
