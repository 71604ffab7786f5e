"""What a page says in figures: the head with its verdict, latencies, faults, invariants, the manifest."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from testnet.network_file import NetworkFile
from testnet.page.charts import GRAINS, NODES_SHOWN
from testnet.page.fields import get_int, get_text
from testnet.page.histogram import Histogram
from testnet.page.markup import Markup, element, join
from testnet.page.scales import format_ms, format_time
from testnet.page.timeline import STAGES, Timeline
from testnet.page.verdict import Verdict

FAULTS_OPEN, FAULTS_SHOWN = 12, 100  # more than so many are a click away; more than so many are not listed
SHORT = 12  # characters that stay on one line
PARAMS_SHOWN = 200
PARAM_CHARS_MAX = 2_000
LOAD = {"rows": "rows", "mode": "mode", "in_flight": "at a time", "per_s": "a second", "timeout_ms": "timeout, ms"}
YEAR_MS_MAX = 253_402_300_799_000  # the last time with a date


def make_head(network: NetworkFile, timeline: Timeline, verdict: Verdict) -> Markup:
    """Which run this is, whether everything holds, and the figures asked for first."""
    nodes = ", ".join(f"{count} {role}" for role, count in Counter(node.role for node in network.nodes).items())
    made = datetime.fromtimestamp(min(max(0, network.created_ms), YEAR_MS_MAX) / 1_000, UTC)
    which = f"{network.name}, made {made:%Y-%m-%d %H:%M:%S} UTC, {len(network.nodes)} nodes: {nodes}"
    client = _merge(timeline, "client")
    heights = [height for series in timeline.heights.values() for _, height in series]
    tiles = (
        ("length", format_time(timeline.axis.length_ms)),
        ("requests sent", f"{_sum(timeline.sent):,}"),
        ("answered", f"{_sum(timeline.released):,}"),
        ("failed", f"{_sum(timeline.failed):,}"),
        ("latency p50", _write_percentile(client, 50)),
        ("latency p99", _write_percentile(client, 99)),
        ("fees, ROLE", f"{_sum(timeline.fees) / GRAINS:,.3f}"),
        ("height", f"{max(heights, default=0):,}"),
        ("faults", f"{len(timeline.faults):,}"),
    )
    shown = [element("div", element("dt", name), element("dd", text)) for name, text in tiles]
    title = join(element("h1", f"rolemesh run, seed {network.seed}"), element("p", which, class_="dim"))
    return join(title, _conclude(verdict), *_tell_gaps(timeline), element("dl", *shown, class_="tiles"))


def make_faults(timeline: Timeline) -> Markup:
    """A line for each fault."""
    faults, start_ms = list(timeline.faults.values()), timeline.axis.start_ms
    rows = [
        (fault.id, fault.kind, ", ".join(fault.who[:8]) or "all", format_time(fault.began_ms - start_ms),
         format_time(fault.ended_ms - start_ms) if fault.ended_ms else "the end")
        for fault in faults[:FAULTS_SHOWN]
    ]  # fmt: skip
    more = f"and {len(faults) - FAULTS_SHOWN} more" if len(faults) > FAULTS_SHOWN else ""
    table = make_table(("fault", "kind", "nodes", "from", "to"), rows) if rows else element("p", "none", class_="dim")
    shown = table if len(rows) <= FAULTS_OPEN else _hide(f"{len(faults)} faults", join(table, more))
    return join(element("h2", "Faults"), shown)


def make_latency(timeline: Timeline) -> Markup:
    """How long each role takes; percentiles to within 2.2 %."""
    rows = []
    for role, text in STAGES.items():
        whole = _merge(timeline, role)
        rows.append((role, text, f"{whole.total:,}", *(_write_percentile(whole, percent) for percent in (50, 95, 99))))
    head = ("role", "from … to", "count", "p50", "p95", "p99")
    return join(element("h2", "Latency by role"), make_table(head, rows))


def make_invariants(verdict: Verdict) -> Markup:
    """The bars of the run, what became of fees and receipts."""
    rows = [
        (bar.name, element("span", "holds" if bar.holds else "broken", class_="good" if bar.holds else "bad"), bar.text)
        for bar in verdict.bars
    ]
    findings = [element("p", text, class_="bad") for text in verdict.findings]
    table = make_table(("invariant", "", "found"), rows) if rows else element("p", "not checked", class_="dim")
    invariants = join(element("h2", "Invariants"), table, *findings)
    fees = join(element("h2", "Fees of inference, in grains"), make_table((), _write_all(verdict.fees)))
    receipts = join(element("h2", "Receipts held by clients"), make_table((), _write_all(verdict.receipts)))
    return join(invariants, make_pair(fees, receipts))


def make_manifest(network: NetworkFile, loads: Mapping[str, Mapping[str, Any]]) -> Markup:
    """What the run was made of: chain, models, load, nodes, parameters. `loads` are the plans of its clients."""
    rows = [("network", network.name), ("chain", network.chain), ("seed", str(network.seed))]
    models = [
        (get_text(model, "name"), get_text(model, "digest"), f"{get_int(model, 'size_bytes') or 0:,}")
        for model in _get_objects(network.genesis, "models")
    ]
    asked = [(name, *(_write_load(load, key) for key in LOAD)) for name, load in loads.items()]
    nodes = [(node.name, node.role, ", ".join(node.addresses), node.account) for node in network.nodes[:NODES_SHOWN]]
    params = network.genesis.get("params")
    known = list(params.items())[:PARAMS_SHOWN] if isinstance(params, dict) else []
    told = [(name, str(value)[:PARAM_CHARS_MAX]) for name, value in known]
    return join(
        element("h2", "Manifest"),
        make_table((), rows),
        make_table(("model", "digest", "bytes"), models) if models else "",
        make_table(("load of", *LOAD.values()), asked) if asked else "",
        _hide(f"{len(network.nodes)} nodes", make_table(("node", "role", "address", "account"), nodes)),
        _hide("Parameters", make_table((), told)),
    )


def make_pair(left: Markup, right: Markup) -> Markup:
    """Side by side, where there is room."""
    return element("div", element("div", left), element("div", right), class_="pair")


def make_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """A table that scrolls by itself where it is too wide."""
    top = [element("tr", *(element("th", cell) for cell in head))] if head else []
    body = [element("tr", *(_make_cell(cell) for cell in row)) for row in rows]
    return element("div", element("table", *top, *body), class_="wide")


def _make_cell(text: str) -> Markup:
    return element("td", text, class_="short" if len(text) <= SHORT else None)


def _conclude(verdict: Verdict) -> Markup:
    if verdict.unchecked:
        return element("p", f"not checked: {verdict.unchecked}", class_="bad verdict")
    if verdict.broken:
        return element("p", f"✗ does not hold: {', '.join(verdict.broken)}", class_="bad verdict")
    text = f"✓ every one of {len(verdict.bars)} invariants and bars holds"
    more = "; the run left no report, so its ledger was recomputed for this page" if verdict.is_recomputed else ""
    return element("p", text + more, class_="good verdict")


def _tell_gaps(timeline: Timeline) -> list[Markup]:
    """What is missing on this page."""
    start_ms = timeline.axis.start_ms
    since = [f"{name} before {format_time(timeline.first_ms.get(name, start_ms) - start_ms)}" for name in timeline.cut]
    silent = [name for name in timeline.roles if name not in timeline.first_ms]
    said = []
    if since:
        lost = ", ".join(sorted(since)[:8])
        text = f"Part of this run is missing here: event logs outgrew their bound and lost {lost}"
        said.append(f"{text}. Figures and plots count what is left; invariants are of the whole run.")
    if silent:
        said.append(f"No event log of {', '.join(silent[:8])}.")
    return [element("p", text, class_="warn") for text in said]


def _merge(timeline: Timeline, role: str) -> Histogram:
    return sum((histogram for _, histogram in timeline.stages[role]), Histogram())


def _sum(series: Iterable[tuple[int, int]]) -> int:
    return sum(value for _, value in series)


def _write_percentile(histogram: Histogram, percent: float) -> str:
    return format_ms(histogram.compute_percentile(percent)) if histogram.total else "–"


def _write_all(figures: Iterable[tuple[str, int]]) -> list[tuple[str, str]]:
    return [(name, f"{figure:,}") for name, figure in figures]


def _write_load(load: Mapping[str, Any], key: str) -> str:
    value = load.get(key)
    return f"{value:,}" if isinstance(value, int | float) else get_text(load, key)


def _get_objects(fields: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    known = fields.get(key)
    return [each for each in known[:NODES_SHOWN] if isinstance(each, dict)] if isinstance(known, list) else []


def _hide(summary: str, content: Markup) -> Markup:
    return element("details", element("summary", summary), content)
