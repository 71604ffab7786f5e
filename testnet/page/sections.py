"""The parts of a report page, each made of a timeline and of what was found about the run."""

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence

from testnet.network_file import NetworkFile
from testnet.page.histogram import Histogram
from testnet.page.markup import Markup, element, join
from testnet.page.plots import PLOT_WIDTH, Band, Line, draw_plot, draw_strips, format_time, make_decades, make_linear
from testnet.page.timeline import STAGES, Fault, Timeline
from testnet.page.trips import Trip, list_spans
from testnet.page.verdict import Verdict

NODES_SHOWN = 40
FAULTS_SHOWN = 100
SAID_MS = 12_000  # a node that is up says so at least every ten seconds
IN_STEP_MS, BEHIND_MS = 2_500, 10_000
TONES = (("step", "in step"), ("late", "behind"), ("lost", "over 10 s behind"))
SPANS = {"way": "on its way", "run": "runs", "back": "back", "check": "checked", "release": "released", "wait": "lost"}


def make_head(network: NetworkFile, timeline: Timeline, verdict: Verdict) -> Markup:
    """Name, seed, length, verdict, and the manifest."""
    roles = Counter(node.role for node in network.nodes)
    length = format_time((timeline.axis.end_ms - timeline.axis.start_ms) / 1_000)
    rows = [
        ("network", f"{network.name}, chain {network.chain}"),
        ("seed", str(network.seed)),
        ("length", f"{length}, {timeline.events} events"),
        ("nodes", ", ".join(f"{count} {role}" for role, count in roles.items())),
        ("models", ", ".join(str(model.get("name")) for model in network.genesis.get("models", ()))),
    ]
    nodes = [(node.name, node.role, ", ".join(node.addresses), node.account) for node in network.nodes[:NODES_SHOWN]]
    manifest = element(
        "details", element("summary", "Nodes"), make_table(("node", "role", "address", "account"), nodes)
    )
    title = element("h1", f"rolemesh run, seed {network.seed}")
    return join(title, _conclude(verdict), make_table((), rows), manifest)


def _conclude(verdict: Verdict) -> Markup:
    if verdict.unchecked:
        return element("p", f"not checked: {verdict.unchecked}", class_="bad")
    if verdict.broken:
        return element("p", f"does not hold: {', '.join(verdict.broken)}", class_="bad")
    return element("p", "every invariant and bar holds", class_="good")


def make_plots(timeline: Timeline) -> Markup:
    """Everything over time, with faults as bands behind it."""
    axis, bands = timeline.axis, [_make_band(timeline, fault) for fault in timeline.faults.values()]
    seconds = axis.width_ms / 1_000
    named = (
        ("sent", "a", timeline.sent),
        ("answered", "b", timeline.released),
        ("refused", "c", timeline.refused),
        ("failed", "d", timeline.failed),
    )
    rates = {
        name: Line(name, tone, [(at, count / seconds) for at, count in series], has_gaps=False)
        for name, tone, series in named
    }
    top = max((value for line in rates.values() for _, value in line.points), default=1.0)
    quantiles = {
        f"p{percent}": Line(f"p{percent}", tone, [(at, h.compute_percentile(percent)) for at, h in timeline.latency])
        for percent, tone in ((50, "a"), (99, "b"))
    }
    slowest = max((value for line in quantiles.values() for _, value in line.points), default=1_000)
    fees = Line("settled", "a", _accumulate(timeline))
    memory = [
        Line(name, "abcd"[place % 4], [(at, value / 2**20) for at, value in series])
        for place, (name, series) in enumerate(list(timeline.rss.items())[:NODES_SHOWN])
    ]
    most = max((value for line in memory for _, value in line.points), default=1.0)
    drawn = [
        draw_plot("Requests a second", axis, list(rates.values()), make_linear(top, "{:g}".format), bands,
                  lambda at: _tell(axis.width_ms * at, rates.values(), at, "{:.1f}")),
        draw_plot("Latency of answers", axis, list(quantiles.values()), make_decades(1, slowest + 1, _write_ms), bands,
                  lambda at: _tell(axis.width_ms * at, quantiles.values(), at, "{:.0f} ms")),
        draw_strips(axis, compute_lags(timeline), TONES),
        draw_plot("Fees settled so far, ROLE", axis, [fees],
                  make_linear(max((value for _, value in fees.points), default=1.0), "{:g}".format), bands,
                  lambda at: _tell(axis.width_ms * at, [fees], at, "{:.3f} ROLE")),
        draw_plot("Memory, MiB", axis, [Line(line.name, line.tone, _carry(line.points, axis.last)) for line in memory],
                  make_linear(most, "{:g}".format), bands,
                  lambda at: _tell(axis.width_ms * at, memory, at, "{:.0f} MiB")),
    ]  # fmt: skip
    return join(element("h2", "Over time"), *drawn)


def make_faults(timeline: Timeline) -> Markup:
    """A line for each fault."""
    faults, start = list(timeline.faults.values()), timeline.axis.start_ms
    rows = [
        (fault.id, fault.kind, ", ".join(fault.who[:8]) or "all", format_time((fault.began_ms - start) / 1_000),
         format_time((fault.ended_ms - start) / 1_000) if fault.ended_ms else "to the end")
        for fault in faults[:FAULTS_SHOWN]
    ]  # fmt: skip
    more = f"and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
    table = make_table(("fault", "kind", "nodes", "from", "to"), rows) if rows else element("p", "none", class_="dim")
    return join(element("h2", "Faults"), table, more)


def make_latency(timeline: Timeline) -> Markup:
    """How long each role takes; percentiles to within 2.2 %."""
    rows = [(role, text, *_describe(timeline.stages[role])) for role, text in STAGES.items()]
    head = ("role", "from … to", "count", "p50", "p95", "p99")
    return join(element("h2", "Latency by role"), make_table(head, rows))


def make_ledger(verdict: Verdict) -> Markup:
    """What was recomputed from genesis, and the bars of the run."""
    bars = [(bar.name, "holds" if bar.holds else "does not hold", bar.text) for bar in verdict.bars]
    findings = [element("p", text, class_="bad") for text in verdict.findings]
    invariants = join(element("h2", "Invariants"), make_table(("invariant", "", "found"), bars), *findings)
    fees = join(element("h2", "Fees of inference, grains"), make_table((), _write_all(verdict.fees)))
    return join(
        invariants, fees, element("h2", "Receipts held by clients"), make_table((), _write_all(verdict.receipts))
    )


def make_slowest(timeline: Timeline) -> Markup:
    """The slowest requests, bar by bar."""
    key = element("p", ", ".join(SPANS.values()), class_="dim")
    trips = [_draw_trip(trip) for trip in timeline.trips.list_slowest()]
    return join(element("h2", "Slowest requests"), key, *(trips or [element("p", "none", class_="dim")]))


def make_topology(network: NetworkFile, timeline: Timeline) -> Markup:
    """Who was connected to whom at last, on a circle."""
    nodes = network.nodes[:NODES_SHOWN]
    places = {}
    for index, node in enumerate(nodes):
        turn = 2 * math.pi * index / len(nodes)
        places[node.node] = round(200 + 130 * math.cos(turn), 1), round(160 + 130 * math.sin(turn), 1)
    links = {
        frozenset((node.node, peer))
        for node in nodes
        for peer in timeline.peers.get(node.name, ())
        if peer in places and peer != node.node
    }
    drawn = []
    for (x1, y1), (x2, y2) in sorted(sorted(places[end] for end in link) for link in links):
        drawn.append(element("line", x1=x1, y1=y1, x2=x2, y2=y2))
    for node in nodes:
        x, y = places[node.node]
        anchor = "start" if x > 200 else "end"
        drawn.append(element("circle", cx=x, cy=y, r=5))
        drawn.append(element("text", node.name, x=x + (9 if x > 200 else -9), y=y + 4, text_anchor=anchor))
    svg = element("svg", *drawn, viewBox="0 0 400 320", class_="topology", role="img", aria_label="Topology")
    return join(element("h2", "Topology"), svg)


def make_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table that scrolls by itself where it is too wide."""
    top = [element("tr", *(element("th", cell) for cell in head))] if head else []
    body = [element("tr", *(element("td", cell) for cell in row)) for row in rows]
    return element("div", element("table", *top, *body), class_="wide")


def compute_lags(timeline: Timeline) -> list[tuple[str, list[str]]]:
    """For each node and bin, a tone for how long others have had a block that it has not; empty when it is silent."""
    axis = timeline.axis
    carried = {name: dict(_carry(list(series), axis.last, SAID_MS // axis.width_ms))
               for name, series in list(timeline.heights.items())[:NODES_SHOWN]}  # fmt: skip
    tops, top = [], 0
    for index in range(axis.last + 1):
        top = max([top, *(int(heights.get(index, 0)) for heights in carried.values())])
        tops.append(top)
    return [
        (name, [_choose_tone(heights.get(at), at, tops, axis.width_ms) for at in range(axis.last + 1)])
        for name, heights in carried.items()
    ]


def _choose_tone(height: float | None, at: int, tops: Sequence[int], width_ms: int) -> str:
    if height is None:
        return ""
    late_ms = max(0, at - bisect_right(tops, height)) * width_ms
    if late_ms <= max(IN_STEP_MS, 2 * width_ms):
        return "step"
    return "late" if late_ms <= max(BEHIND_MS, 4 * width_ms) else "lost"


def _carry(points: Sequence[tuple[int, float]], last: int, bins_max: int = 10**9) -> list[tuple[int, float]]:
    """Points with the latest value in each bin after it, for at most so many bins.

    >>> _carry([(1, 5.0), (4, 6.0)], 5, 1)
    [(1, 5.0), (2, 5.0), (4, 6.0), (5, 6.0)]
    """
    known, carried, latest = dict(points), [], -1
    for index in range(last + 1):
        latest = index if index in known else latest
        if latest >= 0 and index - latest <= bins_max:
            carried.append((index, known[latest]))
    return carried


def _accumulate(timeline: Timeline) -> list[tuple[int, float]]:
    total, points, fees = 0, [], timeline.fees.values
    for index in range(timeline.axis.last + 1):
        total += fees.get(index, 0)
        points.append((index, total / 1e9))
    return points


def _make_band(timeline: Timeline, fault: Fault) -> Band:
    text = f"{fault.id}: {fault.kind} {', '.join(fault.who[:8])}"
    return Band("", text, fault.began_ms, fault.ended_ms or timeline.axis.end_ms)


def _tell(at_ms: int, lines: Iterable[Line], index: int, form: str) -> str:
    told = [(line.name, dict(line.points).get(index)) for line in lines]
    said = ", ".join(f"{name} {form.format(value)}" for name, value in told if value is not None)
    return f"{format_time(at_ms / 1_000)}: {said}" if said else ""


def _write_all(figures: Iterable[tuple[str, int]]) -> list[tuple[str, str]]:
    return [(name, f"{figure:,}") for name, figure in figures]


def _describe(histogram: Histogram) -> list[str]:
    return [str(histogram.total), *(_write_ms(histogram.compute_percentile(percent)) for percent in (50, 95, 99))]


def _write_ms(value: float) -> str:
    return f"{value:.0f} ms" if value < 1_000 else f"{value / 1_000:g} s"


def _draw_trip(trip: Trip) -> Markup:
    rows, length = [], max(1, trip.took_ms)
    for span in list_spans(trip):
        left = PLOT_WIDTH * (span.begin_ms - trip.began_ms) / length
        right = min(float(PLOT_WIDTH), PLOT_WIDTH * (span.end_ms - trip.began_ms) / length)
        bar = element(
            "rect", x=round(left, 1), y=0, width=round(max(2.0, right - left), 1), height=10, class_=span.kind
        )
        svg = element("svg", bar, viewBox=f"0 0 {PLOT_WIDTH} 10", preserveAspectRatio="none")
        took = max(0, span.end_ms - span.begin_ms)
        label = element("div", span.node, class_="y name", title=f"{span.node}: {SPANS[span.kind]}, {took} ms")
        rows.append(element("div", label, element("div", svg, class_="field strip"), class_="plot row"))
    end = f"failed: {trip.code}" if trip.code else "released"
    settled = f", settled {_write_ms(trip.settled_ms - trip.ended_ms)} later" if trip.settled_ms else ""
    head = f"{trip.request_id[:16]}…  {_write_ms(trip.took_ms)}, {end}{settled}"
    return element("figure", element("figcaption", head), *rows)
